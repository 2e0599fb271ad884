"""Tokens by PyJWT, one of each algorithm, each as a line of JSON with the key that verifies it."""

import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "a secret of the tests, long enough for HS256"


def claims():
    now = time.time()
    # The times have fractions, the audience is a string.
    return {"sub": "alice", "iss": "https://id.example", "aud": "chat", "nbf": now - 1, "exp": now + 3600, "roles": ["reader"]}


def emit(alg, key, **verifier):
    token = jwt.encode(claims(), key, algorithm=alg, headers={"kid": f"python {alg}"})
    print(json.dumps({"alg": alg, "token": token, **verifier}))


def emit_pair(alg, private, to_jwk):
    public = private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    emit(alg, private, key_pem=pem, jwk={**json.loads(to_jwk(public)), "kid": f"python {alg}"})


def main():
    emit("HS256", SECRET, secret=SECRET)
    emit_pair("RS256", rsa.generate_private_key(65537, 2048), RSAAlgorithm.to_jwk)
    emit_pair("PS256", rsa.generate_private_key(65537, 2048), RSAAlgorithm.to_jwk)
    emit_pair("ES256", ec.generate_private_key(ec.SECP256R1()), ECAlgorithm.to_jwk)
    emit_pair("EdDSA", ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm.to_jwk)


if __name__ == "__main__":
    main()
