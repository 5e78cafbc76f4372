// Command spiffe-client drives go-spiffe, the reference client of the SPIFFE Workload API and of SPIFFE Federation,
// against a socket or a bundle endpoint. It prints JSON lines and exits with 1 when what it was asked to see did not
// happen before the deadline.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

const modes = "sources, jwt, endpoint, federated, no-header or stream-ends"

func main() {
	socket := flag.String("socket", "", "address of the Workload API, unix:///path")
	mode := flag.String("mode", "sources", modes)
	serials := flag.Int("serials", 1, "mode sources: how many distinct serials to wait for")
	audiences := flag.String("audiences", "", "mode jwt: whom the token is for, with commas")
	var of foreign
	flag.StringVar(&of.trustDomain, "trust-domain", "", "modes endpoint and federated: of whom the bundle is")
	flag.StringVar(&of.url, "url", "", "mode endpoint: where the bundle is")
	flag.StringVar(&of.endpointID, "endpoint-id", "", "mode endpoint: the ID that answers, unless it is a server of the web")
	flag.StringVar(&of.roots, "roots", "", "mode endpoint: file with what the server is verified by")
	flag.IntVar(&of.updates, "updates", 1, "modes endpoint and federated: how many different bundles to wait for")
	deadline := flag.Duration("deadline", time.Minute, "limit of the whole run")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), *deadline)
	defer cancel()
	if err := run(ctx, *mode, *socket, *serials, strings.Split(*audiences, ","), of); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, mode, socket string, serials int, audiences []string, of foreign) error {
	switch mode {
	case "sources":
		return sources(ctx, socket, serials)
	case "jwt":
		return jwts(ctx, socket, audiences)
	case "endpoint":
		return watchEndpoint(ctx, of)
	case "federated":
		return watchSocket(ctx, socket, of)
	case "no-header":
		return noHeader(ctx, socket)
	case "stream-ends":
		return streamEnds(ctx, socket)
	}
	return fmt.Errorf("--mode %q: use %s", mode, modes)
}

func emit(line any) error {
	return json.NewEncoder(os.Stdout).Encode(line)
}
