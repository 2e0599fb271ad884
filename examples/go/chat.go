package main

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chatv1 "chat-client/gen/chat/v1"
)

const (
	pendingMax = 200 // Below 256: at so many unanswered sends the server stops reading a stream.
	waitMin    = 250 * time.Millisecond
	waitMax    = 5 * time.Second
	pause      = time.Second // before what was refused for now goes again
)

// chat loses nothing and doubles nothing: a message keeps its id until it is acknowledged, and goes again with it; a new connection
// resumes behind the last sequence seen.
type chat struct {
	client  chatv1.ChatServiceClient
	id      string
	last    int64               // the last sequence seen
	pending []*chatv1.SendFrame // what has no answer, in the order it was written
	refused map[string]bool     // ids that the server refused for now
	again   <-chan time.Time    // when they go again
	input   <-chan string       // nil once it has ended
	away    time.Duration       // the wait that a server which goes away asks for
}

// stay is one connection: it joins behind the last message seen, and sends again what has no answer. Nil: everything is done.
func (c *chat) stay(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.client.ConnectChat(ctx)
	if err != nil {
		return err
	}
	// Sending may have to wait for the server, and must not keep events from being read. There is room for all that can be pending.
	frames := make(chan *chatv1.ConnectChatRequest, pendingMax+1)
	go func() {
		for frame := range frames {
			if stream.Send(frame) != nil {
				return // Recv tells why.
			}
		}
		_ = stream.CloseSend() // The server delivers what there is, and ends the stream.
	}()
	closed := false
	end := func() {
		if !closed {
			close(frames)
			closed = true
		}
	}
	defer end()
	events, ended := make(chan *chatv1.ConnectChatResponse), make(chan error, 1)
	go func() {
		for {
			event, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case events <- event:
			case <-ctx.Done():
				return
			}
		}
	}()

	frames <- &chatv1.ConnectChatRequest{Frame: &chatv1.ConnectChatRequest_Join{Join: &chatv1.JoinFrame{ChatId: c.id, AfterSequence: &c.last}}}
	for _, send := range c.pending {
		frames <- sendFrame(send)
	}
	c.refused, c.again = map[string]bool{}, nil
	for {
		done := c.input == nil && len(c.pending) == 0
		if done {
			end()
		}
		input := c.input
		if len(c.pending) >= pendingMax {
			input = nil
		}
		select {
		case text, more := <-input:
			if !more {
				c.input = nil
			} else if strings.TrimSpace(text) != "" {
				send := &chatv1.SendFrame{ChatId: c.id, ClientMessageId: cryptorand.Text(), Text: strings.ToValidUTF8(text, "\uFFFD")}
				c.pending = append(c.pending, send)
				frames <- sendFrame(send)
			}
		case <-c.again:
			for _, send := range c.pending {
				if c.refused[send.ClientMessageId] {
					frames <- sendFrame(send)
				}
			}
			c.refused, c.again = map[string]bool{}, nil
		case event := <-events:
			if err := c.take(event); err != nil {
				return err
			}
		case err := <-ended:
			if err == io.EOF && done {
				return nil
			}
			return err
		}
	}
}

func sendFrame(send *chatv1.SendFrame) *chatv1.ConnectChatRequest {
	return &chatv1.ConnectChatRequest{Frame: &chatv1.ConnectChatRequest_Send{Send: send}}
}

func (c *chat) take(response *chatv1.ConnectChatResponse) error {
	switch event := response.GetEvent().(type) {
	case *chatv1.ConnectChatResponse_Message:
		message := event.Message
		if message.Sequence > c.last {
			c.last = message.Sequence
			fields := map[string]any{"sequence": message.Sequence, "sender_id": message.SenderId, "text": message.GetText()}
			return json.NewEncoder(os.Stdout).Encode(fields)
		}
	case *chatv1.ConnectChatResponse_Acknowledged:
		c.settle(event.Acknowledged.ClientMessageId)
	case *chatv1.ConnectChatResponse_Rejected:
		err := status.FromProto(event.Rejected.Status).Err()
		switch {
		case event.Rejected.Frame != chatv1.FrameKind_FRAME_KIND_SEND:
			return err
		case passes(err):
			c.refused[event.Rejected.ClientMessageId] = true
			if c.again == nil {
				c.again = time.After(pause)
			}
		default:
			fmt.Fprintln(os.Stderr, "not sent:", err)
			c.settle(event.Rejected.ClientMessageId)
		}
	case *chatv1.ConnectChatResponse_Left:
		return status.Error(codes.PermissionDenied, "this chat is no longer yours to read")
	case *chatv1.ConnectChatResponse_GoingAway: // The stream's end follows.
		c.away = event.GoingAway.ReconnectAfter.AsDuration()
	}
	return nil
}

func (c *chat) settle(id string) {
	for at, send := range c.pending {
		if send.ClientMessageId == id {
			c.pending = append(c.pending[:at], c.pending[at+1:]...)
			return
		}
	}
}

// passes tells whether the same frame may be taken later.
func passes(err error) bool {
	return status.Code(err) == codes.Unavailable || status.Code(err) == codes.ResourceExhausted
}

// final tells what coming back doesn't change; the rest is a lost connection.
func final(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.NotFound, codes.OutOfRange, codes.Unimplemented:
		return true
	}
	return false
}

func (c *chat) run(ctx context.Context) error {
	for attempts := 0; ; attempts++ {
		last := c.last
		c.away = 0
		err := c.stay(ctx)
		if err == nil || final(err) {
			return err
		}
		fmt.Fprintln(os.Stderr, "…", err)
		if c.last > last {
			attempts = 0
		}
		// With jitter, so that not everyone returns at once.
		wait := min(waitMin<<min(attempts, 10), waitMax)
		time.Sleep(max(c.away, wait/2+rand.N(wait)))
	}
}
