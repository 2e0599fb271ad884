"""A chat in Python, by grpcio. Lines of stdin are sent, messages are printed as lines of JSON; it ends when stdin has ended and all is there.

It loses nothing and doubles nothing: a message keeps its id until it is acknowledged, and goes again with it; a new connection resumes
behind the last sequence seen.
"""

import argparse
import json
import os
import pathlib
import queue
import random
import sys
import tempfile
import threading
import time
import uuid

import grpc
from grpc_tools import protoc

# Below 256: at so many unanswered sends the server stops reading a stream.
PENDING_MAX = 200
BACKOFF_S, BACKOFF_MAX_S = 0.25, 5.0
# The wait before what was refused for now goes again.
PAUSE_S = 1.0
# What may be taken later, and what coming back doesn't change. The rest is a lost connection.
PASSES = {grpc.StatusCode.UNAVAILABLE.value[0], grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
FINAL = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED}


def stubs(proto_root):
    """Makes the API's code from its proto; a project of your own does this once, when it is built."""
    third_party = proto_root / "third_party"
    files = ["chat/v1/chat.proto", *(str(path.relative_to(third_party)) for path in third_party.rglob("*.proto"))]
    includes = [f"-I{proto_root}", f"-I{third_party}", f"-I{pathlib.Path(protoc.__file__).parent / '_proto'}"]
    with tempfile.TemporaryDirectory() as out:
        if protoc.main(["protoc", *includes, f"--python_out={out}", f"--grpc_python_out={out}", *files]) != 0:
            sys.exit("the proto does not compile")
        sys.path.insert(0, out)
        from chat.v1 import chat_pb2, chat_pb2_grpc
    return chat_pb2, chat_pb2_grpc


class Lost(Exception):
    """The connection is of no use any more; the next one goes on where it ended."""


class Chat:
    def __init__(self, pb, stub, token, chat_id, after):
        self.pb, self.stub, self.chat_id = pb, stub, chat_id
        self.metadata = [("authorization", f"Bearer {token}")]
        self.last = after  # the last sequence seen
        self.pending = {}  # id → text, in the order it was written
        self.refused = []  # ids that the server refused for now
        self.room = threading.Semaphore(PENDING_MAX)
        self.frames = None  # what goes out on this connection; None in it ends it
        self.away_s = 0  # the wait that a server which goes away asks for
        self.input_ended = False
        self.lock = threading.Lock()  # of pending, refused, frames and input_ended

    def read_input(self):
        for line in sys.stdin:
            text = line.rstrip("\n")
            if text.strip():
                self.room.acquire()
                with self.lock:
                    message_id = str(uuid.uuid4())
                    self.pending[message_id] = text
                    if self.frames:
                        self.frames.put(self.send_frame(message_id, text))
        with self.lock:
            self.input_ended = True
            self.end_if_done()

    def send_frame(self, message_id, text):
        return self.pb.ConnectChatRequest(send=self.pb.SendFrame(chat_id=self.chat_id, client_message_id=message_id, text=text))

    def send_refused(self):
        with self.lock:
            for message_id in self.refused if self.frames else []:
                self.frames.put(self.send_frame(message_id, self.pending[message_id]))
            self.refused = []

    def end_if_done(self):
        """The server then delivers what there is, and ends the stream."""
        if self.input_ended and not self.pending and self.frames:
            self.frames.put(None)

    def settle(self, message_id):
        with self.lock:
            if self.pending.pop(message_id, None) is not None:
                self.room.release()
            self.end_if_done()

    def stay(self):
        """One connection: joins behind the last message seen, and sends again what has no answer."""
        with self.lock:
            self.frames, self.refused = queue.Queue(), []
            frames = self.frames
            frames.put(self.pb.ConnectChatRequest(join=self.pb.JoinFrame(chat_id=self.chat_id, after_sequence=self.last)))
            for message_id, text in self.pending.items():
                frames.put(self.send_frame(message_id, text))
            self.end_if_done()
        call = self.stub.ConnectChat(iter(frames.get, None), metadata=self.metadata)
        try:
            for response in call:
                self.take(response)
        finally:
            with self.lock:
                self.frames = None
                done = self.input_ended and not self.pending
            frames.put(None)
            call.cancel()
        if not done:
            raise Lost("the stream has ended")

    def take(self, response):
        event = response.WhichOneof("event")
        if event == "message" and response.message.sequence > self.last:
            message = response.message
            self.last = message.sequence
            fields = {"sequence": message.sequence, "sender_id": message.sender_id, "text": message.text}
            print(json.dumps(fields, ensure_ascii=False), flush=True)
        elif event == "acknowledged":
            self.settle(response.acknowledged.client_message_id)
        elif event == "rejected":
            self.reject(response.rejected, response.rejected.status)
        elif event == "left":
            sys.exit("this chat is no longer yours to read")
        elif event == "going_away":  # the stream's end follows
            self.away_s = response.going_away.reconnect_after.ToTimedelta().total_seconds()

    def reject(self, rejected, status):
        if rejected.frame != self.pb.FRAME_KIND_SEND:
            if status.code in PASSES:
                raise Lost(status.message)
            sys.exit(f"the server refuses: {status.message}")
        if status.code in PASSES:
            with self.lock:
                self.refused.append(rejected.client_message_id)
                if len(self.refused) == 1:
                    threading.Timer(PAUSE_S, self.send_refused).start()
        else:
            print(f"not sent: {status.message}", file=sys.stderr)
            self.settle(rejected.client_message_id)

    def run(self):
        threading.Thread(target=self.read_input, daemon=True).start()
        attempts = 0
        while True:
            last, self.away_s = self.last, 0
            try:
                return self.stay()
            except Lost as lost:
                print(f"… {lost}", file=sys.stderr)
            except grpc.RpcError as error:
                if error.code() in FINAL:
                    sys.exit(f"the server refuses: {error.code().name}: {error.details()}")
                print(f"… {error.details()}", file=sys.stderr)
            # With jitter, so that not everyone returns at once.
            attempts = 0 if self.last > last else attempts + 1
            time.sleep(max(self.away_s, min(BACKOFF_S * 2**attempts, BACKOFF_MAX_S) * (0.5 + random.random())))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--addr", default="localhost:50051")
    parser.add_argument("--ca", type=pathlib.Path, default="certs/ca.pem")
    parser.add_argument("--chat", required=True)
    parser.add_argument("--after", type=int, default=0, help="the last sequence seen; 0: the whole history")
    args = parser.parse_args()
    token = os.environ.get("CHAT_TOKEN") or sys.exit("set CHAT_TOKEN to your token")
    sys.stdin.reconfigure(encoding="utf-8")
    sys.stdout.reconfigure(encoding="utf-8")
    pb, pb_grpc = stubs(pathlib.Path(__file__).parents[2] / "proto")
    # The channel's own waits between connections are no longer than this client's.
    options = [("grpc.max_reconnect_backoff_ms", int(BACKOFF_MAX_S * 1000)), ("grpc.keepalive_time_ms", 30_000)]
    channel = grpc.secure_channel(args.addr, grpc.ssl_channel_credentials(args.ca.read_bytes()), options)
    Chat(pb, pb_grpc.ChatServiceStub(channel), token, args.chat, args.after).run()


if __name__ == "__main__":
    main()
