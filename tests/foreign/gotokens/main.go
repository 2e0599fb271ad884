// Tokens by golang-jwt, one of each algorithm, each as a line of JSON with the key that verifies it.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log"
	"math/big"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const secret = "a secret of the tests, long enough for HS256"

type claims struct {
	jwt.RegisteredClaims
	Roles []string `json:"roles"`
}

type line struct {
	Alg    string            `json:"alg"`
	Token  string            `json:"token"`
	Secret string            `json:"secret,omitempty"`
	KeyPEM string            `json:"key_pem,omitempty"`
	JWK    map[string]string `json:"jwk,omitempty"`
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func text(bytes []byte) string {
	return base64.RawURLEncoding.EncodeToString(bytes)
}

func jwk(public crypto.PublicKey) map[string]string {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return map[string]string{"kty": "RSA", "n": text(key.N.Bytes()), "e": text(big.NewInt(int64(key.E)).Bytes())}
	case *ecdsa.PublicKey:
		// An uncompressed point: a mark, and two coordinates of 32 bytes.
		point := must(key.ECDH()).Bytes()
		return map[string]string{"kty": "EC", "crv": "P-256", "x": text(point[1:33]), "y": text(point[33:])}
	case ed25519.PublicKey:
		return map[string]string{"kty": "OKP", "crv": "Ed25519", "x": text(key)}
	}
	log.Fatalf("no JWK for %T", public)
	return nil
}

func sign(method jwt.SigningMethod, key any) string {
	now := time.Now()
	token := jwt.NewWithClaims(method, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   "alice",
			Issuer:    "https://id.example",
			Audience:  jwt.ClaimStrings{"chat"},
			NotBefore: jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour)),
		},
		Roles: []string{"reader"},
	})
	token.Header["kid"] = "go " + method.Alg()
	return must(token.SignedString(key))
}

func main() {
	out := json.NewEncoder(os.Stdout)
	emit := func(line line) {
		if err := out.Encode(line); err != nil {
			log.Fatal(err)
		}
	}
	emit(line{Alg: "HS256", Secret: secret, Token: sign(jwt.SigningMethodHS256, []byte(secret))})
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	pairs := []struct {
		method jwt.SigningMethod
		key    crypto.Signer
	}{
		{jwt.SigningMethodRS256, must(rsa.GenerateKey(rand.Reader, 2048))},
		{jwt.SigningMethodPS256, must(rsa.GenerateKey(rand.Reader, 2048))},
		{jwt.SigningMethodES256, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))},
		{jwt.SigningMethodEdDSA, edwards},
	}
	for _, pair := range pairs {
		der := must(x509.MarshalPKIXPublicKey(pair.key.Public()))
		key := jwk(pair.key.Public())
		key["kid"] = "go " + pair.method.Alg()
		emit(line{
			Alg:    pair.method.Alg(),
			Token:  sign(pair.method, pair.key),
			KeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
			JWK:    key,
		})
	}
}
