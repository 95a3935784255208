// Package echo is the service that the gRPC programs of every language speak: one method of each kind.
// Its messages are google.protobuf.StringValue, so that nobody needs generated code.
package echo

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Service is its name on the wire.
const Service = "mantlet.test.Echo"

// Say answers with what it was told, or with the status that `fail:N` asks for.
func say(_ context.Context, text string) (string, error) {
	if number, ok := strings.CutPrefix(text, "fail:"); ok {
		code, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return "", status.Error(codes.InvalidArgument, "no number")
		}
		return "", status.Errorf(codes.Code(code), "asked for %d: 100%% sure", code)
	}
	return text, nil
}

func collect(stream grpc.ServerStream) error {
	var all []string
	for {
		message := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(message); err == io.EOF {
			return stream.SendMsg(wrapperspb.String(strings.Join(all, ",")))
		} else if err != nil {
			return err
		}
		all = append(all, message.Value)
	}
}

func count(stream grpc.ServerStream) error {
	message := new(wrapperspb.StringValue)
	if err := stream.RecvMsg(message); err != nil {
		return err
	}
	last, err := strconv.Atoi(message.Value)
	if err != nil {
		return status.Error(codes.InvalidArgument, "no number")
	}
	for n := 1; n <= last; n++ {
		if err := stream.SendMsg(wrapperspb.String(fmt.Sprint(n))); err != nil {
			return err
		}
	}
	return nil
}

func chat(stream grpc.ServerStream) error {
	for {
		message := new(wrapperspb.StringValue)
		if err := stream.RecvMsg(message); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if message.Value == "enough" {
			return status.Error(codes.ResourceExhausted, "enough")
		}
		if err := stream.SendMsg(message); err != nil {
			return err
		}
	}
}

// Description is what a server registers.
var Description = grpc.ServiceDesc{
	ServiceName: Service,
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Say",
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			message := new(wrapperspb.StringValue)
			if err := decode(message); err != nil {
				return nil, err
			}
			answer, err := say(ctx, message.Value)
			if err != nil {
				return nil, err
			}
			return wrapperspb.String(answer), nil
		},
	}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Collect", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return collect(s) }},
		{StreamName: "Count", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return count(s) }},
		{StreamName: "Chat", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error { return chat(s) }},
	},
}
