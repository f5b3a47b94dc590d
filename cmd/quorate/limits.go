package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/quorate/quorate/api"
)

// limitFlags say what a store may take. What is not given stays as it is.
type limitFlags struct {
	MaxEventBytes       *int   `help:"Data and metadata of one event; 0: the cluster-wide limit." placeholder:"N"`
	MaxAppendBytes      *int   `help:"Data and metadata of all events of one append; 0: the cluster-wide limit." placeholder:"N"`
	MaxAppendEvents     *int   `help:"Events in one append; 0: the cluster-wide limit." placeholder:"N"`
	MaxStreams          *int64 `help:"Streams in the store; 0: no limit." placeholder:"N"`
	MaxBytes            *int64 `help:"What the store takes on its leader's disk; 0: no limit." placeholder:"N"`
	MaxAppendsPerSecond *int   `help:"On average; 0: no limit." placeholder:"N"`
}

func (f *limitFlags) change(l *api.Limits) {
	set(&l.MaxEventBytes, f.MaxEventBytes)
	set(&l.MaxAppendBytes, f.MaxAppendBytes)
	set(&l.MaxAppendEvents, f.MaxAppendEvents)
	set(&l.MaxStreams, f.MaxStreams)
	set(&l.MaxBytes, f.MaxBytes)
	set(&l.MaxAppendsPerSecond, f.MaxAppendsPerSecond)
}

func set[T any](to, given *T) {
	if given != nil {
		*to = *given
	}
}

// ofLimit follows a number that has a limit.
func ofLimit(limit int64) string {
	if limit == 0 {
		return ""
	}
	return fmt.Sprintf(" of %d", limit)
}

// printLimits lists the limits of appends that the store has set.
func printLimits(w *tabwriter.Writer, l *api.Limits) {
	for _, row := range []struct {
		what  string
		value int
	}{
		{"max event bytes", l.MaxEventBytes}, {"max append bytes", l.MaxAppendBytes}, {"max append events", l.MaxAppendEvents}, {"max appends/s", l.MaxAppendsPerSecond},
	} {
		if row.value > 0 {
			fmt.Fprintf(w, "%s\t%d\n", row.what, row.value)
		}
	}
}
