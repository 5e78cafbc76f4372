package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

type svidLine struct {
	SPIFFEID string `json:"spiffe_id"`
	Serial   string `json:"serial"`
	NotAfter string `json:"not_after"`
	Roots    int    `json:"roots"`
	JWTKeys  int    `json:"jwt_keys"`
}

// sources follows an X509Source and a BundleSource side by side and verifies each SVID of the one by the bundles of
// both.
func sources(ctx context.Context, socket string, serials int) error {
	at := workloadapi.WithClientOptions(workloadapi.WithAddr(socket))
	svids, err := workloadapi.NewX509Source(ctx, at)
	if err != nil {
		return fmt.Errorf("X509Source: %w", err)
	}
	defer svids.Close()
	bundles, err := workloadapi.NewBundleSource(ctx, at)
	if err != nil {
		return fmt.Errorf("BundleSource: %w", err)
	}
	defer bundles.Close()

	seen := map[string]bool{}
	for {
		svid, err := svids.GetX509SVID()
		if err != nil {
			return fmt.Errorf("X509Source: %w", err)
		}
		serial := fmt.Sprintf("%x", svid.Certificates[0].SerialNumber)
		if !seen[serial] {
			seen[serial] = true
			if _, _, err := x509svid.Verify(svid.Certificates, svids); err != nil {
				return fmt.Errorf("serial %s against the bundle of X509Source: %w", serial, err)
			}
			if _, _, err := x509svid.Verify(svid.Certificates, bundles); err != nil {
				return fmt.Errorf("serial %s against the bundle of BundleSource: %w", serial, err)
			}
			bundle, err := bundles.GetBundleForTrustDomain(svid.ID.TrustDomain())
			if err != nil {
				return err
			}
			err = emit(svidLine{
				SPIFFEID: svid.ID.String(),
				Serial:   serial,
				NotAfter: svid.Certificates[0].NotAfter.UTC().Format(time.RFC3339),
				Roots:    len(bundle.X509Authorities()),
				JWTKeys:  len(bundle.JWTAuthorities()),
			})
			if err != nil {
				return err
			}
		}
		if len(seen) >= serials {
			return nil
		}
		if err := svids.WaitUntilUpdated(ctx); err != nil {
			return fmt.Errorf("%d of %d serials seen: %w", len(seen), serials, err)
		}
	}
}
