package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// foreign says of whom a bundle is, and where it comes from.
type foreign struct {
	trustDomain, url, endpointID, roots string
	updates                             int
}

type bundleLine struct {
	By       string `json:"by"`
	Roots    int    `json:"roots"`
	JWTKeys  int    `json:"jwt_keys"`
	Sequence uint64 `json:"sequence"`
	Hint     string `json:"hint"`
}

// watchEndpoint fetches a bundle once, then watches it until so many updates were seen. The roots in the file are the
// web's if no ID of the endpoint is given; otherwise they are the first bundle, in whose place each update steps.
func watchEndpoint(ctx context.Context, of foreign) error {
	trustDomain, err := spiffeid.TrustDomainFromString(of.trustDomain)
	if err != nil {
		return err
	}
	known := x509bundle.NewSet()
	authentication, err := of.authentication(trustDomain, known)
	if err != nil {
		return err
	}
	fetched, err := federation.FetchBundle(ctx, trustDomain, of.url, authentication)
	if err != nil {
		return fmt.Errorf("FetchBundle: %w", err)
	}
	if err := emitBundle("FetchBundle", fetched); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := &bundleWatcher{known: known, wanted: of.updates, done: cancel}
	err = federation.WatchBundle(ctx, trustDomain, of.url, watch, authentication)
	if watch.err != nil {
		return watch.err
	}
	if watch.seen < watch.wanted {
		return fmt.Errorf("WatchBundle: %d of %d updates: %w", watch.seen, watch.wanted, err)
	}
	return nil
}

func (of foreign) authentication(trustDomain spiffeid.TrustDomain, known *x509bundle.Set) (federation.FetchOption, error) {
	if of.endpointID != "" {
		first, err := x509bundle.Load(trustDomain, of.roots)
		if err != nil {
			return nil, err
		}
		known.Add(first)
		id, err := spiffeid.FromString(of.endpointID)
		if err != nil {
			return nil, err
		}
		return federation.WithSPIFFEAuth(known, id), nil
	}
	pem, err := os.ReadFile(of.roots)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in the file of roots")
	}
	return federation.WithWebPKIRoots(pool), nil
}

type bundleWatcher struct {
	known        *x509bundle.Set
	seen, wanted int
	done         func()
	err          error
}

func (*bundleWatcher) NextRefresh(hint time.Duration) time.Duration {
	if hint == 0 {
		return time.Second
	}
	return hint
}

func (w *bundleWatcher) OnUpdate(bundle *spiffebundle.Bundle) {
	w.known.Add(bundle.X509Bundle())
	w.seen++
	if err := emitBundle("WatchBundle", bundle); err != nil {
		w.fail(err)
	}
	if w.seen >= w.wanted {
		w.done()
	}
}

func (w *bundleWatcher) OnError(err error) { w.fail(fmt.Errorf("WatchBundle: %w", err)) }

func (w *bundleWatcher) fail(err error) {
	w.err = errors.Join(w.err, err)
	w.done()
}

// watchSocket follows a BundleSource and an X509Source until each has shown so many different bundles of a trust domain
// that the socket's own one federates with, and both of them the same.
func watchSocket(ctx context.Context, socket string, of foreign) error {
	trustDomain, err := spiffeid.TrustDomainFromString(of.trustDomain)
	if err != nil {
		return err
	}
	at := workloadapi.WithClientOptions(workloadapi.WithAddr(socket))
	bundles, err := workloadapi.NewBundleSource(ctx, at)
	if err != nil {
		return fmt.Errorf("BundleSource: %w", err)
	}
	defer bundles.Close()
	svids, err := workloadapi.NewX509Source(ctx, at)
	if err != nil {
		return fmt.Errorf("X509Source: %w", err)
	}
	defer svids.Close()

	var last *x509bundle.Bundle
	for seen := 0; seen < of.updates; {
		// neither is there yet, or it is as it was
		bundle, bySource := bundles.GetBundleForTrustDomain(trustDomain)
		beside, _ := svids.GetX509BundleForTrustDomain(trustDomain)
		if bySource != nil || bundle.X509Bundle().Equal(last) || !bundle.X509Bundle().Equal(beside) {
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-ctx.Done():
				return fmt.Errorf("%d of %d bundles seen: %w", seen, of.updates, errors.Join(ctx.Err(), bySource))
			}
		}
		last = bundle.X509Bundle()
		seen++
		if err := emitBundle("BundleSource", bundle); err != nil {
			return err
		}
	}
	return nil
}

func emitBundle(by string, bundle *spiffebundle.Bundle) error {
	sequence, _ := bundle.SequenceNumber()
	hint, _ := bundle.RefreshHint()
	return emit(bundleLine{
		By:       by,
		Roots:    len(bundle.X509Authorities()),
		JWTKeys:  len(bundle.JWTAuthorities()),
		Sequence: sequence,
		Hint:     hint.String(),
	})
}
