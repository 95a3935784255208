// Command gospiffe-client calls one address once as a go-spiffe workload and expects one identity.
//
// It prints "PEER <SPIFFE ID>", "ALPN <protocol>", then for http "STATUS <code>", "PROTO <version>"
// and one "HEADER <name>: <value>" per field, and "BODY <text>". A failure prints "ERROR <cause>" and exits 1.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	socket := flag.String("workload-api", "", "unix:///path of the Workload API")
	addr := flag.String("addr", "", "host:port to call")
	expect := flag.String("expect", "", "the SPIFFE ID that must answer")
	mode := flag.String("mode", "http", "http or tcp (one line)")
	alpn := flag.String("alpn", "", "comma-separated ALPN protocols; empty offers none")
	path := flag.String("path", "/", "path of the request")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(*socket)))
	check("no identity", err)
	defer source.Close()
	id, err := spiffeid.FromString(*expect)
	check("-expect", err)
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(id))
	if *alpn != "" {
		config.NextProtos = strings.Split(*alpn, ",")
	}
	if *mode == "tcp" {
		callTCP(ctx, *addr, config)
	} else {
		callHTTP(ctx, *addr, *path, config)
	}
}

func callTCP(ctx context.Context, addr string, config *tls.Config) {
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
	check("dial", err)
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	check("deadline", conn.SetDeadline(deadline))
	state := conn.(*tls.Conn).ConnectionState()
	report(&state)
	_, err = io.WriteString(conn, "hello\n")
	check("write", err)
	// In TLS 1.3 a refusal by the server arrives only with the first read.
	line, err := bufio.NewReader(conn).ReadString('\n')
	check("read", err)
	fmt.Printf("BODY %s", line)
}

func callHTTP(ctx context.Context, addr, path string, config *tls.Config) {
	transport := &http.Transport{
		TLSClientConfig:   config,
		ForceAttemptHTTP2: len(config.NextProtos) > 0 && config.NextProtos[0] == "h2",
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+path, nil)
	check("request", err)
	response, err := transport.RoundTrip(request)
	check("call", err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check("body", err)
	report(response.TLS)
	fmt.Printf("STATUS %d\nPROTO %s\n", response.StatusCode, response.Proto)
	for name, values := range response.Header {
		fmt.Printf("HEADER %s: %s\n", name, strings.Join(values, ", "))
	}
	fmt.Printf("BODY %s\n", strings.TrimSpace(string(body)))
}

func report(state *tls.ConnectionState) {
	id, err := x509svid.IDFromCert(state.PeerCertificates[0])
	check("peer", err)
	fmt.Printf("PEER %s\nALPN %s\n", id, state.NegotiatedProtocol)
}

func check(what string, err error) {
	if err != nil {
		fmt.Printf("ERROR %s: %v\n", what, err)
		os.Exit(1)
	}
}
