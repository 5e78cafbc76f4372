// Command citadel-client asks an Istio certificate authority for certificates through pilot-agent's own client and
// prints one JSON line per call, then one with the totals. It exits with 1 when a call failed, or when Go's verifier
// does not accept what came back.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"istio.io/istio/pkg/log"
	"istio.io/istio/pkg/security"
	"istio.io/istio/security/pkg/credentialfetcher/plugin"
	"istio.io/istio/security/pkg/nodeagent/caclient/providers/citadel"
	"istio.io/istio/security/pkg/pki/util"
)

type options struct {
	address, rootFile, tokenFile, spiffeID, key, out string
	ttl, interval, deadline                          time.Duration
	calls                                            int
}

type callLine struct {
	Call     int    `json:"call"`
	Serial   string `json:"serial,omitempty"`
	NotAfter string `json:"not_after,omitempty"`
	SPIFFEID string `json:"spiffe_id,omitempty"`
	Elements int    `json:"elements,omitempty"`
	TookMS   int64  `json:"took_ms"`
	Error    string `json:"error,omitempty"`
}

type totalsLine struct {
	Calls     int   `json:"calls"`
	Failures  int   `json:"failures"`
	LongestMS int64 `json:"longest_ms"`
}

func main() {
	var o options
	flag.StringVar(&o.address, "address", "localhost:15012", "host:port of the certificate authority")
	flag.StringVar(&o.rootFile, "root-file", "", "PEM of the roots that vouch for the authority's server certificate")
	flag.StringVar(&o.tokenFile, "token-file", "", "file with the bearer token")
	flag.StringVar(&o.spiffeID, "spiffe-id", "", "SPIFFE ID to put into the CSR, as pilot-agent does")
	flag.StringVar(&o.key, "key", "ecdsa-p256", "rsa-2048, ecdsa-p256 or ecdsa-p384")
	flag.StringVar(&o.out, "out", "", "folder for leaf.pem, intermediates.pem, root.pem and key.pem of the last call")
	flag.DurationVar(&o.ttl, "ttl", time.Hour, "TTL to ask for")
	flag.IntVar(&o.calls, "calls", 1, "how many certificates to ask for, one after the other")
	flag.DurationVar(&o.interval, "interval", 0, "pause between two calls")
	flag.DurationVar(&o.deadline, "deadline", time.Minute, "limit of the whole run")
	flag.Parse()

	// The client sets no deadline of its own on a call.
	time.AfterFunc(o.deadline, func() {
		fmt.Fprintf(os.Stderr, "no end after %v\n", o.deadline)
		os.Exit(1)
	})
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(o options) error {
	logging := log.DefaultOptions()
	logging.OutputPaths = []string{"stderr"}
	if err := log.Configure(logging); err != nil {
		return err
	}
	client, err := citadel.NewCitadelClient(&security.Options{
		CAEndpoint:  o.address,
		ClusterID:   "Kubernetes",
		CredFetcher: plugin.CreateTokenPlugin(o.tokenFile),
	}, &citadel.TLSOptions{RootCert: o.rootFile})
	if err != nil {
		return err
	}
	defer client.Close()

	lines := json.NewEncoder(os.Stdout)
	totals := totalsLine{Calls: o.calls}
	for call := 1; call <= o.calls; call++ {
		if call > 1 {
			time.Sleep(o.interval)
		}
		line := sign(client, o)
		line.Call = call
		if line.Error != "" {
			totals.Failures++
		}
		totals.LongestMS = max(totals.LongestMS, line.TookMS)
		if err := lines.Encode(line); err != nil {
			return err
		}
	}
	if err := lines.Encode(totals); err != nil {
		return err
	}
	if totals.Failures > 0 {
		return fmt.Errorf("%d of %d calls failed", totals.Failures, totals.Calls)
	}
	return nil
}

func sign(client *citadel.CitadelClient, o options) callLine {
	csr, key, err := newCSR(o)
	if err != nil {
		return callLine{Error: err.Error()}
	}
	begin := time.Now()
	chain, err := client.CSRSign(csr, int64(o.ttl.Seconds()))
	line := callLine{TookMS: time.Since(begin).Milliseconds(), Elements: len(chain)}
	if err == nil {
		var leaf *x509.Certificate
		if leaf, err = verify(chain, key); err == nil {
			line.Serial = fmt.Sprintf("%x", leaf.SerialNumber)
			line.NotAfter = leaf.NotAfter.UTC().Format(time.RFC3339)
			line.SPIFFEID = leaf.URIs[0].String()
			err = write(o.out, chain, key)
		}
	}
	if err != nil {
		line.Error = err.Error()
	}
	return line
}

func newCSR(o options) (csr, key []byte, err error) {
	request := util.CertOptions{Host: o.spiffeID, PKCS8Key: true}
	switch o.key {
	case "rsa-2048":
		request.RSAKeySize = 2048
	case "ecdsa-p256":
		request.ECSigAlg, request.ECCCurve = util.EcdsaSigAlg, util.P256Curve
	case "ecdsa-p384":
		request.ECSigAlg, request.ECCCurve = util.EcdsaSigAlg, util.P384Curve
	default:
		return nil, nil, fmt.Errorf("--key %q: use rsa-2048, ecdsa-p256 or ecdsa-p384", o.key)
	}
	return util.GenCSR(request)
}

// verify takes the reply as pilot-agent does: the leaf first, the roots in the last element.
func verify(chain []string, key []byte) (*x509.Certificate, error) {
	leaves, err := parse(chain[0])
	if err != nil {
		return nil, fmt.Errorf("leaf: %w", err)
	}
	leaf := leaves[0]
	if _, err := tls.X509KeyPair([]byte(chain[0]), key); err != nil {
		return nil, err
	}
	if len(leaf.URIs) != 1 {
		return nil, fmt.Errorf("the leaf has %d URI names, not one", len(leaf.URIs))
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	rootCerts, err := parse(chain[len(chain)-1])
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	for _, root := range rootCerts {
		roots.AddCert(root)
	}
	for _, element := range chain[1 : len(chain)-1] {
		certs, err := parse(element)
		if err != nil {
			return nil, fmt.Errorf("intermediate: %w", err)
		}
		if len(certs) != 1 {
			return nil, fmt.Errorf("an element between leaf and root holds %d certificates, not one", len(certs))
		}
		intermediates.AddCert(certs[0])
	}
	// Verify is satisfied by any one of the usages it is given, so each is asked for alone.
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return nil, err
		}
	}
	return leaf, nil
}

func parse(text string) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate")
	}
	return certs, nil
}

func write(folder string, chain []string, key []byte) error {
	if folder == "" {
		return nil
	}
	last := len(chain) - 1
	files := map[string]string{
		"leaf.pem":          chain[0],
		"intermediates.pem": strings.Join(chain[1:last], ""),
		"root.pem":          chain[last],
		"key.pem":           string(key),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}
