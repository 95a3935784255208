// Command grpcgo-server serves the echo service on a free port and prints the address.
package main

import (
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"

	"mantlet.dev/peers/grpcgo/echo"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	server.RegisterService(&echo.Description, new(any))
	fmt.Println("LISTEN", listener.Addr())
	log.Fatal(server.Serve(listener))
}
