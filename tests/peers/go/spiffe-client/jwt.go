package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

type jwtLine struct {
	SPIFFEID  string   `json:"spiffe_id"`
	Audience  []string `json:"audience"`
	Seconds   float64  `json:"seconds"`
	JWTKeys   int      `json:"jwt_keys"`
	ByAgent   string   `json:"by_agent"`
	OtherSays string   `json:"other_says"`
	Token     string   `json:"token"`
}

// jwts fetches a JWT-SVID through a JWTSource, validates it by the source's bundles and has the agent validate it.
func jwts(ctx context.Context, socket string, audiences []string) error {
	at := workloadapi.WithAddr(socket)
	source, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(at))
	if err != nil {
		return fmt.Errorf("JWTSource: %w", err)
	}
	defer source.Close()
	svid, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audiences[0], ExtraAudiences: audiences[1:]})
	if err != nil {
		return fmt.Errorf("FetchJWTSVID: %w", err)
	}
	if strings.Count(svid.Marshal(), ".") != 2 {
		return fmt.Errorf("not a compact JWS")
	}
	for _, audience := range audiences {
		if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{audience}); err != nil {
			return fmt.Errorf("by the source's bundles, for %q: %w", audience, err)
		}
	}
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{"somebody else"}); err == nil {
		return fmt.Errorf("a token for somebody else was taken")
	}
	bundle, err := source.GetJWTBundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return err
	}
	client, err := workloadapi.New(ctx, at)
	if err != nil {
		return err
	}
	defer client.Close()
	validated, err := client.ValidateJWTSVID(ctx, svid.Marshal(), audiences[0])
	if err != nil {
		return fmt.Errorf("ValidateJWTSVID: %w", err)
	}
	_, other := client.ValidateJWTSVID(ctx, svid.Marshal(), "somebody else")
	if other == nil {
		return fmt.Errorf("ValidateJWTSVID took a token for somebody else")
	}
	return emit(jwtLine{
		SPIFFEID:  svid.ID.String(),
		Audience:  svid.Audience,
		Seconds:   time.Until(svid.Expiry).Seconds(),
		JWTKeys:   len(bundle.JWTAuthorities()),
		ByAgent:   validated.ID.String(),
		OtherSays: other.Error(),
		Token:     svid.Marshal(),
	})
}
