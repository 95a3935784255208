// Command grpcgo-client calls every method of the echo service and prints a line per call:
// the name of the call, the status code, and what came.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"mantlet.dev/peers/grpcgo/echo"
)

func report(name string, text string, err error) {
	answer := status.Convert(err)
	fmt.Printf("%s code=%d text=%q message=%q\n", name, answer.Code(), text, answer.Message())
}

func say(ctx context.Context, conn *grpc.ClientConn, text string) (string, error) {
	reply := new(wrapperspb.StringValue)
	err := conn.Invoke(ctx, "/"+echo.Service+"/Say", wrapperspb.String(text), reply)
	return reply.Value, err
}

// stream sends everything, then reads everything.
func stream(ctx context.Context, conn *grpc.ClientConn, method string, messages ...string) (string, error) {
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream, err := conn.NewStream(ctx, desc, "/"+echo.Service+"/"+method)
	if err != nil {
		return "", err
	}
	for _, message := range messages {
		if err := stream.SendMsg(wrapperspb.String(message)); err != nil && err != io.EOF {
			return "", err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	var all []string
	for {
		reply := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(reply); err == io.EOF {
			return strings.Join(all, " "), nil
		} else if err != nil {
			return strings.Join(all, " "), err
		}
		all = append(all, reply.Value)
	}
}

// chat waits for each answer before it says the next thing.
func chat(ctx context.Context, conn *grpc.ClientConn, messages ...string) (string, error) {
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream, err := conn.NewStream(ctx, desc, "/"+echo.Service+"/Chat")
	if err != nil {
		return "", err
	}
	var all []string
	for _, message := range messages {
		if err := stream.SendMsg(wrapperspb.String(message)); err != nil && err != io.EOF {
			return "", err
		}
		reply := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(reply); err != nil {
			return strings.Join(all, " "), err
		}
		all = append(all, reply.Value)
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); err != io.EOF {
		return "", fmt.Errorf("after the end: %v", err)
	}
	return strings.Join(all, " "), nil
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: grpcgo-client HOST:PORT")
	}
	conn, err := grpc.NewClient("passthrough:///"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	text, err := say(ctx, conn, "hello")
	report("unary", text, err)
	for _, code := range []string{"1", "3", "5", "7", "8", "12", "14", "16"} {
		text, err = say(ctx, conn, "fail:"+code)
		report("fail-"+code, text, err)
	}
	large := strings.Repeat("x", 1<<20)
	text, err = say(ctx, conn, large)
	report("large", fmt.Sprint(text == large), err)
	text, err = stream(ctx, conn, "Collect", "a", "b", "c")
	report("client-streaming", text, err)
	text, err = stream(ctx, conn, "Count", "5")
	report("server-streaming", text, err)
	text, err = chat(ctx, conn, "one", "two", "three")
	report("bidi", text, err)
	text, err = chat(ctx, conn, "one", "enough")
	report("bidi-error", text, err)
	text, err = stream(ctx, conn, "Missing", "x")
	report("unimplemented", text, err)
}
