package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

type streamLine struct {
	Stream  string `json:"stream"`
	Event   string `json:"event"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

// noHeader prints how the socket answers a caller that forgot the security header, which go-spiffe itself never does.
func noHeader(ctx context.Context, socket string) error {
	target, err := workloadapi.TargetFromAddress(socket)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return emit(ended("FetchX509SVID", err))
}

// streamEnds opens the three watches, prints each update, and returns once every one of them has ended once. An end
// with OK is a failure: some clients do not come back after it.
func streamEnds(ctx context.Context, socket string) error {
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(socket))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	lines := make(chan streamLine)
	watch := watcher{ctx: ctx, lines: lines}
	go client.WatchX509Context(ctx, watch)
	go client.WatchX509Bundles(ctx, watch)
	go client.WatchJWTBundles(ctx, watch)

	const streams = 3
	over := map[string]bool{}
	for len(over) < streams {
		select {
		case line := <-lines:
			if err := emit(line); err != nil {
				return err
			}
			if line.Event == "end" {
				if line.Code == "OK" {
					return fmt.Errorf("stream %s ended with OK", line.Stream)
				}
				over[line.Stream] = true
			}
		case <-ctx.Done():
			return fmt.Errorf("%d of %d streams ended: %w", len(over), streams, ctx.Err())
		}
	}
	return nil
}

type watcher struct {
	ctx   context.Context
	lines chan<- streamLine
}

func (w watcher) send(line streamLine) {
	select {
	case w.lines <- line:
	case <-w.ctx.Done():
	}
}

func (w watcher) OnX509ContextUpdate(*workloadapi.X509Context) {
	w.send(streamLine{Stream: "FetchX509SVID", Event: "update"})
}
func (w watcher) OnX509ContextWatchError(err error) { w.send(ended("FetchX509SVID", err)) }
func (w watcher) OnX509BundlesUpdate(*x509bundle.Set) {
	w.send(streamLine{Stream: "FetchX509Bundles", Event: "update"})
}
func (w watcher) OnX509BundlesWatchError(err error) { w.send(ended("FetchX509Bundles", err)) }
func (w watcher) OnJWTBundlesUpdate(*jwtbundle.Set) {
	w.send(streamLine{Stream: "FetchJWTBundles", Event: "update"})
}
func (w watcher) OnJWTBundlesWatchError(err error) { w.send(ended("FetchJWTBundles", err)) }

// ended words the end of a stream. grpc-go tells an end with OK by io.EOF.
func ended(stream string, err error) streamLine {
	line := streamLine{Stream: stream, Event: "end", Code: "OK"}
	if err != nil && !errors.Is(err, io.EOF) {
		line.Code, line.Message = status.Code(err).String(), err.Error()
	}
	return line
}
