// Command spiffe-client drives go-spiffe, the reference client of the SPIFFE Workload API, against a socket. It prints
// JSON lines and exits with 1 when what it was asked to see did not happen before the deadline.
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

func main() {
	socket := flag.String("socket", "", "address of the Workload API, unix:///path")
	mode := flag.String("mode", "sources", "sources, jwt, no-header or stream-ends")
	serials := flag.Int("serials", 1, "mode sources: how many distinct serials to wait for")
	audiences := flag.String("audiences", "", "mode jwt: whom the token is for, with commas")
	deadline := flag.Duration("deadline", time.Minute, "limit of the whole run")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), *deadline)
	defer cancel()
	if err := run(ctx, *mode, *socket, *serials, strings.Split(*audiences, ",")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, mode, socket string, serials int, audiences []string) error {
	switch mode {
	case "sources":
		return sources(ctx, socket, serials)
	case "jwt":
		return jwts(ctx, socket, audiences)
	case "no-header":
		return noHeader(ctx, socket)
	case "stream-ends":
		return streamEnds(ctx, socket)
	}
	return fmt.Errorf("--mode %q: use sources, jwt, no-header or stream-ends", mode)
}

func emit(line any) error {
	return json.NewEncoder(os.Stdout).Encode(line)
}
