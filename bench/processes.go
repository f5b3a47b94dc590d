package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// processes are the three nodes of a system. They die with the bench: by its own hand, or by the kernel's when it is killed.
type processes struct {
	dir   string
	cmds  []*exec.Cmd // nil: down
	ports [][]int     // of each node
}

func (p *processes) nodes() *processes { return p }

// prepare makes blank directories and finds free ports.
func (p *processes) prepare(perNode int) error {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	p.cmds, p.ports = make([]*exec.Cmd, 3), make([][]int, 3)
	for i := range 3 {
		for range perNode {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			held = append(held, l)
			p.ports[i] = append(p.ports[i], l.Addr().(*net.TCPAddr).Port)
		}
		if err := os.MkdirAll(p.data(i), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (p *processes) data(i int) string { return filepath.Join(p.dir, fmt.Sprintf("n%d", i+1)) }

func (p *processes) addr(node, port int) string {
	return fmt.Sprintf("127.0.0.1:%d", p.ports[node][port])
}

func (p *processes) run(i int, binary string, args ...string) error {
	log, err := os.OpenFile(p.data(i)+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that Ctrl-C reaches the bench alone, which then stops them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmds[i] = cmd
	return nil
}

// kill is kill -9.
func (p *processes) kill(i int) {
	if cmd := p.cmds[i]; cmd != nil {
		cmd.Process.Kill()
		cmd.Wait()
		p.cmds[i] = nil
	}
}

func (p *processes) stop() {
	for i := range p.cmds {
		p.kill(i)
	}
	os.RemoveAll(p.dir)
}

// up lists the nodes that run.
func (p *processes) up() (nodes []int) {
	for i, cmd := range p.cmds {
		if cmd != nil {
			nodes = append(nodes, i)
		}
	}
	return nodes
}

// cpu is the processor time that all nodes have used.
func (p *processes) cpu() (sum time.Duration) {
	for _, i := range p.up() {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmds[i].Process.Pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		user, _ := strconv.Atoi(f[11])
		sys, _ := strconv.Atoi(f[12])
		sum += time.Duration(user+sys) * 10 * time.Millisecond
	}
	return sum
}

// ownCPU is the processor time that this process has used: that of the clients.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// memory is the resident memory of each node, in MB.
func (p *processes) memory() (mb []float64) {
	for _, i := range p.up() {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmds[i].Process.Pid))
		if _, after, ok := strings.Cut(string(raw), "VmRSS:"); ok {
			var kb float64
			fmt.Sscan(after, &kb)
			mb = append(mb, kb*1024/1e6)
		}
	}
	return mb
}

// disk is what the files of all nodes that are counted take, in bytes: what is allocated, not what the files say.
func (p *processes) disk(counted func(path string) bool) (sum int64) {
	for i := range p.cmds {
		filepath.WalkDir(p.data(i), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && counted(path) {
				if info, err := d.Info(); err == nil {
					sum += info.Sys().(*syscall.Stat_t).Blocks * 512
				}
			}
			return nil
		})
	}
	return sum
}

// settled waits until the files no longer change for some seconds.
func (p *processes) settled(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	everything := func(string) bool { return true }
	last, same := int64(-1), 0
	for same < 8 && ctx.Err() == nil {
		wait(ctx, 500*time.Millisecond)
		if now := p.disk(everything); now == last {
			same++
		} else {
			last, same = now, 0
		}
	}
}

// healthy asks a node's HTTP port whether all is well.
func healthy(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := get(ctx, url)
	return err
}

// get returns what an HTTP server answers with 200.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	return io.ReadAll(res.Body)
}

// eventually tries until ok has no error, for two minutes at most; with again, only while that says that the error may pass.
func eventually(ctx context.Context, what string, ok func() error, again ...func(error) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if len(again) > 0 && !again[0](err) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited until %s: %w", what, err)
		}
	}
}

// all does fn for n things, so many at once, and returns the first error. After an error nothing more is begun.
func all(n, atOnce int, fn func(i int) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		mu.Lock()
		over := first != nil
		mu.Unlock()
		if over {
			break
		}
		wg.Add(1)
		go func() { // ends with fn
			defer func() { <-slots; wg.Done() }()
			if err := fn(i); err != nil {
				mu.Lock()
				if first == nil {
					first = err
				}
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	return first
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
