package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// raftTLS returns the configuration for connections between nodes from the files of --raft-tls-cert, --raft-tls-key and --raft-tls-ca: TLS 1.3, and both
// sides show a certificate of the authority, which must name the host of --raft-listen or --raft-advertise. Without any of the three it is nil: plain TCP.
func raftTLS(cert, key, ca string) (*tls.Config, error) {
	if cert == "" && key == "" && ca == "" {
		return nil, nil
	}
	if cert == "" || key == "" || ca == "" {
		return nil, errors.New("--raft-tls-cert, --raft-tls-key and --raft-tls-ca belong together: give all three, or none for plain TCP")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("--raft-tls-cert %s, --raft-tls-key %s: %w", cert, key, err)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("--raft-tls-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--raft-tls-ca %s: there is no PEM certificate in it", ca)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}
