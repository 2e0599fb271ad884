"""A foreign client: drives ConnectChat by grpcio, with stubs made from the proto.

Joins a chat, sends texts, waits for their acknowledgements and for a number of messages, and prints each message as a line of JSON.
"""

import argparse
import json
import pathlib
import queue
import sys
import tempfile
import uuid

import grpc
from grpc_tools import protoc


def stubs(proto_root, out):
    third_party = pathlib.Path(proto_root) / "third_party"
    files = [str(p.relative_to(third_party)) for p in third_party.rglob("*.proto")]
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    includes = [f"-I{proto_root}", f"-I{third_party}", f"-I{well_known}"]
    code = protoc.main(["protoc", *includes, f"--python_out={out}", f"--grpc_python_out={out}", "chat/v1/chat.proto", *files])
    if code != 0:
        sys.exit("the proto does not compile")
    sys.path.insert(0, out)
    from chat.v1 import chat_pb2, chat_pb2_grpc

    return chat_pb2, chat_pb2_grpc


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--addr", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--chat", required=True)
    parser.add_argument("--after", type=int, default=0)
    parser.add_argument("--send", action="append", default=[])
    parser.add_argument("--expect", type=int, required=True)
    parser.add_argument("--proto-root", default="proto")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        pb, pb_grpc = stubs(args.proto_root, out)

    credentials = grpc.ssl_channel_credentials(pathlib.Path(args.ca).read_bytes())
    channel = grpc.secure_channel(args.addr, credentials)
    frames = queue.Queue()
    frames.put(pb.ConnectChatRequest(join=pb.JoinFrame(chat_id=args.chat, after_sequence=args.after)))
    waiting = set()
    for text in args.send:
        message_id = str(uuid.uuid4())
        waiting.add(message_id)
        frames.put(pb.ConnectChatRequest(send=pb.SendFrame(chat_id=args.chat, client_message_id=message_id, text=text)))
    metadata = [("authorization", f"Bearer {args.token}")]
    call = pb_grpc.ChatServiceStub(channel).ConnectChat(iter(frames.get, None), metadata=metadata, timeout=60)

    messages = []
    try:
        for response in call:
            event = response.WhichOneof("event")
            if event == "message":
                messages.append(response.message)
            elif event == "acknowledged":
                waiting.discard(response.acknowledged.client_message_id)
            elif event in ("rejected", "left", "going_away"):
                sys.exit(f"unexpected: {response}")
            if not waiting and len(messages) >= args.expect:
                break
        else:
            sys.exit(f"the stream ended with {len(messages)} messages, {len(waiting)} sends not acknowledged")
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}; {len(messages)} messages, {len(waiting)} sends not acknowledged")
    finally:
        frames.put(None)
        call.cancel()
    for message in messages:
        fields = {"sequence": message.sequence, "sender_id": message.sender_id, "text": message.text}
        sys.stdout.buffer.write((json.dumps(fields, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
