// SPDX-License-Identifier: MIT

package thirdparty

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"example.com/wgnet/wgnet"
)

// echoService sends back each message of a stream. Written by hand, it needs no protoc.
var echoService = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: "Echo", ClientStreams: true, ServerStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			for {
				var message wrapperspb.BytesValue
				if err := stream.RecvMsg(&message); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := stream.SendMsg(&message); err != nil {
					return err
				}
			}
		},
	}},
}

// newGRPC starts a server and dials it by the peer's name.
func newGRPC(t *testing.T, client, server *wgnet.Net) (*grpc.ClientConn, *health.Server) {
	t.Helper()
	srv, checks := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(srv, checks)
	srv.RegisterService(&echoService, nil)
	served := make(chan error, 1)
	l := listen(t, server, ":50051")
	go func() { served <- srv.Serve(l) }() // srv.Stop ends it
	conn, err := grpc.NewClient("passthrough:///server:50051",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return client.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		srv.GracefulStop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return conn, checks
}

func TestGRPCUnary(t *testing.T) {
	noLog(t)
	client, server := newNets(t)
	conn, checks := newGRPC(t, client, server)
	checks.SetServingStatus("db", healthpb.HealthCheckResponse_NOT_SERVING)

	var from peer.Peer
	resp, err := healthpb.NewHealthClient(conn).Check(testContext(t), &healthpb.HealthCheckRequest{Service: "db"}, grpc.Peer(&from))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("status %v", resp.Status)
	}
	if got := from.Addr.(*net.TCPAddr).IP.String(); got != "10.0.0.2" && got != "fd00::2" {
		t.Errorf("answered by %v", from.Addr)
	}
	_, err = healthpb.NewHealthClient(conn).Check(testContext(t), &healthpb.HealthCheckRequest{Service: "unknown"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("an unknown service: %v", err)
	}
}

// TestGRPCStream has content go both ways at once over one stream.
func TestGRPCStream(t *testing.T) {
	noLog(t)
	client, server := newNets(t)
	conn, _ := newGRPC(t, client, server)
	stream, err := conn.NewStream(testContext(t), &echoService.Streams[0], "/test.Echo/Echo")
	if err != nil {
		t.Fatal(err)
	}
	there, want := content(1)
	sent := make(chan error, 1)
	go func() { // the stream's context ends it
		sent <- func() error {
			buf := make([]byte, 64<<10)
			for {
				n, err := io.ReadFull(there, buf)
				if n > 0 {
					if err := stream.SendMsg(wrapperspb.Bytes(buf[:n])); err != nil {
						return err
					}
				}
				if err != nil { // the end: content cannot fail
					return stream.CloseSend()
				}
			}
		}()
	}()
	back, w := io.Pipe()
	go func() { // the stream's context ends it
		for {
			var message wrapperspb.BytesValue
			err := stream.RecvMsg(&message)
			if err == nil {
				_, err = w.Write(message.Value)
			}
			if err != nil {
				w.CloseWithError(err) // io.EOF is what the reader wants
				return
			}
		}
	}()
	if got := hash(back); got != want {
		t.Errorf("received %s, want %s", got, want)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestGRPCEnds: what the context says ends a stream that has nothing more to say, and the connection stays of use.
func TestGRPCEnds(t *testing.T) {
	noLog(t)
	client, server := newNets(t)
	conn, _ := newGRPC(t, client, server)
	for _, tc := range []struct {
		name string
		end  func(context.Context) (context.Context, context.CancelFunc)
		stop bool // cancel after the first message
		want codes.Code
	}{
		{"deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 100*time.Millisecond)
		}, false, codes.DeadlineExceeded},
		{"cancel", context.WithCancel, true, codes.Canceled},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := tc.end(testContext(t))
			defer cancel()
			watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
			for err == nil {
				if _, err = watch.Recv(); err == nil && tc.stop {
					cancel()
				}
			}
			if status.Code(err) != tc.want {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if _, err := healthpb.NewHealthClient(conn).Check(testContext(t), &healthpb.HealthCheckRequest{}); err != nil {
				t.Errorf("the next call: %v", err)
			}
		})
	}
}

// TestGRPCUnreachable: the tunnel's explanation of a failed dial reaches the caller through gRPC.
func TestGRPCUnreachable(t *testing.T) {
	client, _ := newNets(t)
	conn, err := grpc.NewClient("passthrough:///10.9.9.9:50051",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return client.DialContext(ctx, "tcp", address)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, conn)
	_, err = healthpb.NewHealthClient(conn).Check(testContext(t), &healthpb.HealthCheckRequest{})
	const want = "no peer's AllowedIPs contain 10.9.9.9"
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want Unavailable with %q", err, want)
	}
}
