// A chat in Go, by gRPC. Lines of stdin are sent, messages are printed as lines of JSON; it ends when stdin has ended and all is there.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	chatv1 "chat-client/gen/chat/v1"
)

func main() {
	addr := flag.String("addr", "localhost:50051", "the server")
	ca := flag.String("ca", "certs/ca.pem", "the CA that signed its certificate")
	id := flag.String("chat", "", "the chat's id")
	after := flag.Int64("after", 0, "the last sequence seen; 0: the whole history")
	flag.Parse()
	client, err := dial(*addr, *ca)
	if err == nil {
		ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+os.Getenv("CHAT_TOKEN"))
		err = (&chat{client: client, id: *id, last: *after, input: lines()}).run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chat-client:", err)
		os.Exit(1)
	}
}

func dial(addr, ca string) (chatv1.ChatServiceClient, error) {
	tls, err := credentials.NewClientTLSFromFile(ca, "")
	if err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient(addr,
		grpc.WithTransportCredentials(tls),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}),
		// The channel's own waits between connections are no longer than this client's.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: waitMin, Multiplier: 2, Jitter: 0.2, MaxDelay: waitMax}}),
	)
	return chatv1.NewChatServiceClient(connection), err
}

// lines is what is typed; closed when stdin has ended.
func lines() <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(os.Stdin)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
		if err := scanner.Err(); err != nil {
			fmt.Fprintln(os.Stderr, "stdin:", err)
		}
	}()
	return lines
}
