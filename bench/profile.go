package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// spent is the processor time of the nodes and of this process, which is the clients.
func spent(s system) time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return s.nodes().cpu()
	}
	return s.nodes().cpu() + time.Duration(u.Utime.Nano()+u.Stime.Nano())
}

// profile takes a processor and an allocation profile of every Quorate node over the length: <dir>/<row>-n<node>.cpu and .allocs, for go tool pprof.
func profile(ctx context.Context, dir, row string, q *quorate, length time.Duration) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	row = strings.NewReplacer(" ", "", ",", "-").Replace(row)
	return all(6, 6, func(i int) error {
		kind, node := []string{"profile", "allocs"}[i/3], i%3
		file := filepath.Join(dir, fmt.Sprintf("%s-n%d.%s", row, node+1, []string{"cpu", "allocs"}[i/3]))
		url := fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/%s?seconds=%d", q.ports[node][3], kind, max(1, int(length.Seconds())))
		return download(ctx, url, file)
	})
}

func download(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(f, res.Body)
	return err
}

// profiled runs fn, and with a directory given takes profiles meanwhile.
func profiled(ctx context.Context, c config, row string, s system, fn func() error) error {
	q, ok := s.(*quorate)
	if c.profiles == "" || !ok || !q.pprof {
		return fn()
	}
	var wg sync.WaitGroup
	var perr error
	wg.Go(func() { // ends with the profiles
		wait(ctx, c.slice/4)
		perr = profile(ctx, c.profiles, row, q, c.slice)
	})
	err := fn()
	wg.Wait()
	if err == nil && perr != nil {
		err = fmt.Errorf("profile: %w", perr)
	}
	return err
}
