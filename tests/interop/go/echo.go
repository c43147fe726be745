package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// What is used of proto/portolan/demo/v1/echo.proto. Two messages of strings are not worth a
// generator that has to be installed.
type (
	sayRequest struct{ text string }
	sayReply   struct{ text, endpoint string }
)

const sayMethod = "/portolan.demo.v1.Echo/Say"

// echoService answers as an endpoint.
func echoService(endpoint string) *grpc.ServiceDesc {
	answer := func(_ context.Context, request any) (any, error) {
		return &sayReply{text: request.(*sayRequest).text, endpoint: endpoint}, nil
	}
	say := func(server any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		request := new(sayRequest)
		if err := decode(request); err != nil {
			return nil, err
		}
		if intercept == nil {
			return answer(ctx, request)
		}
		return intercept(ctx, request, &grpc.UnaryServerInfo{Server: server, FullMethod: sayMethod}, answer)
	}
	return &grpc.ServiceDesc{
		ServiceName: "portolan.demo.v1.Echo",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Say", Handler: say}},
	}
}

type echoCodec struct{}

func (echoCodec) Name() string { return "proto" }

// fields are those of a message by their number.
func fields(message any) (map[protowire.Number]*string, error) {
	switch message := message.(type) {
	case *sayRequest:
		return map[protowire.Number]*string{1: &message.text}, nil
	case *sayReply:
		return map[protowire.Number]*string{1: &message.text, 2: &message.endpoint}, nil
	default:
		return nil, fmt.Errorf("%T is no message of Echo", message)
	}
}

func (echoCodec) Marshal(message any) ([]byte, error) {
	known, err := fields(message)
	if err != nil {
		return nil, err
	}
	var data []byte
	for number, text := range known {
		data = protowire.AppendTag(data, number, protowire.BytesType)
		data = protowire.AppendString(data, *text)
	}
	return data, nil
}

func (echoCodec) Unmarshal(data []byte, message any) error {
	known, err := fields(message)
	if err != nil {
		return err
	}
	for len(data) > 0 {
		number, kind, length := protowire.ConsumeTag(data)
		if length < 0 {
			return protowire.ParseError(length)
		}
		data = data[length:]
		if text := known[number]; text != nil && kind == protowire.BytesType {
			*text, length = protowire.ConsumeString(data)
		} else {
			length = protowire.ConsumeFieldValue(number, kind, data)
		}
		if length < 0 {
			return protowire.ParseError(length)
		}
		data = data[length:]
	}
	return nil
}
