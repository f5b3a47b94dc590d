package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate
	dir  string
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.file = filepath.Join(a.dir, "ca.pem")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.cert = a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, &key.PublicKey, a.file)
	return a
}

// sign writes a certificate; the authority's own, if it has none yet.
func (a *authority) sign(t *testing.T, tmpl *x509.Certificate, key *ecdsa.PublicKey, file string) *x509.Certificate {
	t.Helper()
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent := a.cert
	if parent == nil {
		parent = tmpl
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err == nil {
		err = os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// issue writes a certificate for loopback and its key.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &k.PublicKey, cert)
	der, err := x509.MarshalECPrivateKey(k)
	if err == nil {
		err = os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TestRaftTLS: three processes whose certificates one authority has signed are a cluster like any other, also when the leader is killed. Whoever has none of its certificates
// is turned away: a stranger who connects, and a process that has even a member's disk, address and name. That process trusts the right authority, so it is the others who refuse it.
func TestRaftTLS(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	flags := func(a *authority, name string) []string {
		cert, key := a.issue(t, name)
		return []string{"--raft-tls-cert", cert, "--raft-tls-key", key, "--raft-tls-ca", ours.file}
	}
	c := testcluster.New(t, 3)
	for _, n := range c.Nodes {
		n.Flags(append(flags(ours, n.Name), "--log-level", "debug")...) // which says why a connection is refused
		n.Start()
	}
	c.WaitReady()
	cl := c.Client()
	c.CreateStore(cl, "orders")
	load := testcluster.StartLoad(clients(c, 2), "orders", 4)
	load.WaitAcks(t, 50)
	killed := c.Node(c.Leader(cl, "orders").Leader)
	killed.Kill()
	load.WaitAcks(t, 50)

	var member *testcluster.Node
	for _, n := range c.Nodes {
		if n != killed {
			member = n
		}
	}
	for name, flags := range map[string][]string{
		"of another authority": flags(theirs, "stranger"), "that is none": nil,
	} {
		if err := dialRaft(t, member.Raft, ours.file, flags); err == nil {
			t.Errorf("a stranger with a certificate %s is let in", name)
		} else {
			t.Logf("a stranger with a certificate %s: %v", name, err)
		}
	}
	if err := dialRaft(t, member.Raft, ours.file, flags(ours, "another")); err != nil {
		t.Fatalf("a certificate of ours is refused, so the strangers' refusals say nothing: %v", err)
	}

	had, refused := held(t, member), refusals(member)
	killed.Flags(flags(theirs, "impostor")...)
	killed.Start()
	testcluster.Eventually(t, member.Name+" refuses the impostor", func() error {
		if refusals(member) == refused {
			return errors.New("its log does not say so")
		}
		return nil
	})
	load.WaitAcks(t, 20) // the others go on
	if h, err := killed.Health(); err == nil && h.Ready {
		t.Error("a process with a certificate of another authority is ready")
	}
	if got := held(t, killed); got > had {
		t.Errorf("a process with a certificate of another authority was sent events: it has %v, and the others had %v before it started", got, had)
	}
	killed.Kill()

	killed.Flags(flags(ours, killed.Name)...)
	killed.Start()
	c.WaitReady()
	load.WaitAcks(t, 50)
	load.Stop(t)
	c.WaitSame("orders")
	for _, n := range c.Nodes {
		load.Check(t, client.New(n.Connect()), api.Local)
	}
}

// refusals counts the connections that the node has refused, since a certificate was not of its authority.
func refusals(n *testcluster.Node) int {
	return strings.Count(n.Log(), "signed by unknown authority")
}

// held returns how many events the node's own replica of the store orders has.
func held(t *testing.T, n *testcluster.Node) (events float64) {
	t.Helper()
	testcluster.Eventually(t, n.Name+" says how many events it has", func() error {
		res, err := http.Get("http://" + n.HTTP + "/metrics")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		_, rest, found := strings.Cut(string(raw), "\nquorate_store_last_position{store=\"orders\"} ")
		if !found {
			return errors.New("the store is not open")
		}
		_, err = fmt.Sscan(rest, &events)
		return err
	})
	return events
}

// dialRaft connects to a Raft listener with the certificate that the flags name, or none, and returns why it was turned away. A listener that lets it in waits for what it has to say.
func dialRaft(t *testing.T, addr, ca string, flags []string) error {
	t.Helper()
	raw, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AppendCertsFromPEM(raw)
	if flags != nil {
		pair, err := tls.LoadX509KeyPair(flags[1], flags[3])
		if err != nil {
			t.Fatal(err)
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil } // whatever the listener asks for
	}
	ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
	defer cancel()
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	// Not the protocol's first bytes: who is let in is answered.
	if _, err := conn.Write(append([]byte("QRAF"), 0, 0)); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if answer[0] != 1 {
		return fmt.Errorf("answer %d to a handshake of version 0, wanted a refusal", answer[0])
	}
	return nil
}
