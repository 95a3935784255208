// Command grpcgo-server serves the echo service, and the health of it, on a free port and prints the address.
package main

import (
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"mantlet.dev/peers/grpcgo/echo"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	server.RegisterService(&echo.Description, new(any))
	states := health.NewServer()
	states.SetServingStatus("mantlet.test.Echo", healthpb.HealthCheckResponse_SERVING)
	states.SetServingStatus("mantlet.test.Other", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(server, states)
	fmt.Println("LISTEN", listener.Addr())
	log.Fatal(server.Serve(listener))
}
