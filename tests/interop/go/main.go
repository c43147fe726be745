// Our Echo with gRPC for Go, for tests/interop/grpc_clients.py: a client whose target, or a server
// whose listener, comes over xDS. grpc_process.py says what stands in the lines.
//
//	echo call TARGET
//	echo serve ADDRESS
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/xds" // For the scheme of targets, too.
)

func main() {
	run := call
	if os.Args[1] == "serve" {
		run = serve
	}
	if err := run(os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

// call makes a call for each line.
func call(target string) error {
	// As the control plane has it, and in the clear where that says nothing.
	fallback := xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()}
	creds, err := xdscreds.NewClientCredentials(fallback)
	if err != nil {
		return err
	}
	codec := grpc.WithDefaultCallOptions(grpc.ForceCodec(echoCodec{}))
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds), codec)
	if err != nil {
		return err
	}
	if err := tell("peer", peer); err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var word string
		var limitMs int
		if _, err := fmt.Sscan(lines.Text(), &word, &limitMs); err != nil {
			return err
		}
		if err := say(conn, time.Duration(limitMs)*time.Millisecond, word == "wait"); err != nil {
			return err
		}
	}
	return lines.Err()
}

// say makes one call and tells how it ended.
func say(conn *grpc.ClientConn, limit time.Duration, wait bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var reply sayReply
	err := conn.Invoke(ctx, sayMethod, &sayRequest{text: "ahoy"}, &reply, grpc.WaitForReady(wait))
	if err != nil {
		ended := status.Convert(err)
		return tell("code", codeName(ended.Code()), "message", ended.Message())
	}
	return tell("text", reply.text, "endpoint", reply.endpoint)
}

// codeName is what other languages call a code too.
func codeName(code codes.Code) string {
	switch code {
	case codes.Unavailable:
		return "UNAVAILABLE"
	case codes.DeadlineExceeded:
		return "DEADLINE_EXCEEDED"
	case codes.PermissionDenied:
		return "PERMISSION_DENIED"
	default:
		return code.String()
	}
}

// serve serves until its input ends.
func serve(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fallback := xdscreds.ServerOptions{FallbackCreds: insecure.NewCredentials()}
	creds, err := xdscreds.NewServerCredentials(fallback)
	if err != nil {
		return err
	}
	server, err := xds.NewGRPCServer(grpc.Creds(creds), grpc.ForceServerCodec(echoCodec{}))
	if err != nil {
		return err
	}
	server.RegisterService(echoService(address), nil)
	if err := tell("peer", peer); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // Whatever ends it, it is the end.
		server.Stop()
	}()
	return server.Serve(listener)
}

const peer = "google.golang.org/grpc " + grpc.Version

// tell writes keys and values in turn as a line of JSON.
func tell(items ...string) error {
	line := map[string]string{}
	for i := 0; i < len(items); i += 2 {
		line[items[i]] = items[i+1]
	}
	return json.NewEncoder(os.Stdout).Encode(line)
}
