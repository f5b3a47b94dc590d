package raftnode

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// raftLogger passes hashicorp/raft's log on to slog. What raft calls info is debug here: with thousands of groups it is noise. So is what it
// fails to send to a peer. Any other error is passed on once in ten seconds.
type raftLogger struct {
	hclog.Logger // the rest of a wide interface, doing nothing
	log          *slog.Logger

	mu   *sync.Mutex // guards said
	said map[string]time.Time
}

const repeatAfter = 10 * time.Second

func newRaftLogger(log *slog.Logger) hclog.Logger {
	return &raftLogger{Logger: hclog.NewNullLogger(), log: log, mu: new(sync.Mutex), said: make(map[string]time.Time)}
}

func (l *raftLogger) Trace(string, ...any)          {}
func (l *raftLogger) Debug(msg string, args ...any) { l.log.Debug("raft: "+msg, plain(args)...) }
func (l *raftLogger) Info(msg string, args ...any)  { l.log.Debug("raft: "+msg, plain(args)...) }
func (l *raftLogger) Warn(msg string, args ...any)  { l.log.Debug("raft: "+msg, plain(args)...) }

func (l *raftLogger) Error(msg string, args ...any) {
	if strings.HasPrefix(msg, "failed to") { // a peer that is down or not there yet; the cluster's directory tells of that, once
		l.Debug(msg, args...)
		return
	}
	l.mu.Lock()
	now := time.Now()
	repeated := now.Sub(l.said[msg]) < repeatAfter
	if !repeated {
		l.said[msg] = now
	}
	l.mu.Unlock()
	if repeated {
		l.log.Debug("raft: "+msg, plain(args)...)
		return
	}
	l.log.Warn("raft: "+msg, plain(args)...)
}

func (l *raftLogger) With(args ...any) hclog.Logger {
	c := *l
	c.log = l.log.With(plain(args)...)
	return &c
}

func (l *raftLogger) Named(string) hclog.Logger      { return l }
func (l *raftLogger) ResetNamed(string) hclog.Logger { return l }

// plain renders hclog's lazy values.
func plain(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				a = fmt.Sprintf(format, f[1:]...)
			}
		}
		out[i] = a
	}
	return out
}
