package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// authority signs certificates for 127.0.0.1.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert, key, pool}
}

// mutual returns a member's TLS configuration: a certificate of its own, and only those of trust accepted.
func (a *authority) mutual(t testing.TB, trust *authority) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}},
		RootCAs:      trust.pool, ClientCAs: trust.pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

func TestMutualTLS(t *testing.T) {
	var b book
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	secure := func(c *Config) { c.TLS = ours.mutual(t, ours) }
	ts := []*Transport{listen(t, &b, "n1~a", secure), listen(t, &b, "n2~b", secure), listen(t, &b, "n3~c", secure)}
	ctx := testContext(t)
	t.Run("call", func(t *testing.T) {
		if got, err := ts[0].Call(ctx, "n2~b", 1, []byte("hi")); err != nil || string(got) != "n1~a/1/hi" {
			t.Fatalf("got %q, %v", got, err)
		}
	})
	t.Run("group", func(t *testing.T) { replicate(t, ts, "1-1", 20) })
	for name, change := range map[string]func(*Config){
		"plain text is refused":               nil,
		"a certificate of another CA":         func(c *Config) { c.TLS = theirs.mutual(t, ours) },
		"we do not speak to another CA's":     func(c *Config) { c.TLS = ours.mutual(t, theirs) },
		"no certificate is refused":           func(c *Config) { c.TLS = ours.mutual(t, ours); c.TLS.Certificates = nil },
		"a certificate for another host name": func(c *Config) { c.TLS = ours.mutual(t, ours); c.TLS.ServerName = "elsewhere" },
	} {
		t.Run(name, func(t *testing.T) {
			short := func(c *Config) {
				if change != nil {
					change(c)
				}
				c.DialTimeout = 2 * time.Second
			}
			before := ts[1].Stats().Strangers
			defer func() {
				eventually(t, "the stranger is counted", func() bool { return ts[1].Stats().Strangers > before })
			}()
			if change == nil || !strings.HasPrefix(name, "no cert") {
				stranger := listen(t, &b, "n9~x", short)
				if got, err := stranger.Call(ctx, "n2~b", 1, nil); err == nil {
					t.Fatalf("got %q, want a refusal", got)
				}
				return
			}
			cfg := ours.mutual(t, ours)
			cfg.Certificates = nil
			conn, err := tls.Dial("tcp", ts[1].Addr().String(), cfg)
			if err == nil { // TLS 1.3: the refusal comes with the first read
				_, err = conn.Read(make([]byte, 1))
				conn.Close()
			}
			if err == nil || err == io.EOF {
				t.Fatalf("got %v, want the server to ask for a certificate", err)
			}
		})
	}
}
