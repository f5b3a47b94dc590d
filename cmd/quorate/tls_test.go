package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate writes a self-signed certificate and its key as PEM files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", raw), write("key.pem", "EC PRIVATE KEY", der)
}

func TestRaftTLS(t *testing.T) {
	cert, key := certificate(t)
	if got, err := raftTLS("", "", ""); got != nil || err != nil {
		t.Errorf("no files: got %v, %v; want plain TCP", got, err)
	}
	got, err := raftTLS(cert, key, cert)
	if err != nil || len(got.Certificates) != 1 || got.ClientAuth != tls.RequireAndVerifyClientCert || got.RootCAs == nil || got.ClientCAs == nil {
		t.Fatalf("all files: got %+v, %v; want certificates to be demanded of both sides", got, err)
	}
	for _, c := range []struct{ cert, key, ca, want string }{
		{cert, key, "", "belong together"},
		{"", "", cert, "belong together"},
		{cert, cert, cert, "--raft-tls-key"},
		{cert, key, key, "no PEM certificate"},
		{cert, key, "nowhere.pem", "--raft-tls-ca"},
	} {
		if _, err := raftTLS(c.cert, c.key, c.ca); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("raftTLS(%q, %q, %q): got %v, want an error with %q", c.cert, c.key, c.ca, err, c.want)
		}
	}
}
