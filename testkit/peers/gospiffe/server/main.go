// Command gospiffe-server is a workload written with go-spiffe: it takes its identity from the
// Workload API, demands a client certificate and says who called.
//
// It prints "LISTEN <address>" once and "PEER <SPIFFE ID>" for each connection or request.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	socket := flag.String("workload-api", "", "unix:///path of the Workload API")
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	allow := flag.String("allow", "", "the one SPIFFE ID that may call; empty admits the own trust domain")
	mode := flag.String("mode", "http", "http or tcp (echo of lines)")
	alpn := flag.String("alpn", "", "comma-separated ALPN protocols; empty offers none")
	flag.Parse()
	log.SetFlags(0)

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(*socket)))
	if err != nil {
		log.Fatalf("ERROR no identity: %v", err)
	}
	defer source.Close()
	config := tlsconfig.MTLSServerConfig(source, source, authorizer(source, *allow))
	if *alpn != "" {
		config.NextProtos = strings.Split(*alpn, ",")
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatalf("ERROR listen: %v", err)
	}
	fmt.Printf("LISTEN %s\n", listener.Addr())
	if *mode == "tcp" {
		echo(tls.NewListener(listener, config))
		return
	}
	server := &http.Server{TLSConfig: config, Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}
	if *alpn == "" {
		// ServeTLS would add h2 to the offer; a plain TLS listener keeps it empty.
		log.Fatal(server.Serve(tls.NewListener(listener, config)))
	}
	log.Fatal(server.ServeTLS(listener, "", ""))
}

func authorizer(source *workloadapi.X509Source, allow string) tlsconfig.Authorizer {
	if allow != "" {
		return tlsconfig.AuthorizeID(spiffeid.RequireFromString(allow))
	}
	svid, err := source.GetX509SVID()
	if err != nil {
		log.Fatalf("ERROR no identity: %v", err)
	}
	return tlsconfig.AuthorizeMemberOf(svid.ID.TrustDomain())
}

func peer(state *tls.ConnectionState) string {
	if state == nil || len(state.PeerCertificates) == 0 {
		return "none"
	}
	id, err := x509svid.IDFromCert(state.PeerCertificates[0])
	if err != nil {
		return "invalid"
	}
	return id.String()
}

func answer(w http.ResponseWriter, r *http.Request) {
	id := peer(r.TLS)
	fmt.Printf("PEER %s\n", id)
	fmt.Fprintf(w, "peer=%s proto=%s alpn=%q path=%s\n", id, r.Proto, r.TLS.NegotiatedProtocol, r.URL.Path)
}

func echo(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatalf("ERROR accept: %v", err)
		}
		go func() {
			defer conn.Close()
			stream := conn.(*tls.Conn)
			if err := stream.Handshake(); err != nil {
				fmt.Printf("REFUSED %v\n", err)
				return
			}
			state := stream.ConnectionState()
			fmt.Printf("PEER %s\n", peer(&state))
			lines := bufio.NewScanner(stream)
			for lines.Scan() {
				fmt.Fprintf(stream, "peer=%s alpn=%q line=%s\n", peer(&state), state.NegotiatedProtocol, lines.Text())
			}
		}()
	}
}
