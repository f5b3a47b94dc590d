package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// bench is a run: what is measured, and what it has come to.
type bench struct {
	config
	report  report
	systems []system
	began   time.Time
}

// start starts systems and returns those that run. One that does not start is dropped.
func (b *bench) start(ctx context.Context, systems ...system) (up []system) {
	for _, s := range systems {
		b.progress("starting %s", s.name())
		if err := s.start(ctx); err != nil {
			b.drop(s, fmt.Errorf("it does not start: %w", err))
			continue
		}
		up = append(up, s)
	}
	return up
}

// drop leaves a system out of the rest of the run.
func (b *bench) drop(s system, err error) {
	s.stop()
	if b.report.Failed == nil {
		b.report.Failed = map[string]string{}
	}
	b.report.Failed[s.name()] = err.Error()
	b.progress("%s: %v", s.name(), err)
	b.systems = slices.DeleteFunc(slices.Clone(b.systems), func(other system) bool { return other == s })
}

func (b *bench) stop() {
	for _, s := range b.systems {
		s.stop()
	}
}

func (b *bench) progress(format string, args ...any) {
	fmt.Printf("[%5s] %s\n", time.Since(b.began).Round(time.Second), fmt.Sprintf(format, args...))
}

// wanted says whether a row is to be measured; only whose rows none is wanted need not be prepared.
func (b *bench) wanted(rows ...*result) bool {
	return slices.ContainsFunc(rows, func(r *result) bool { return b.rows.MatchString(r.Topic) || b.rows.MatchString(r.Name) })
}

// late says that the time for the run is over; what is therefore not measured is told in the report.
func (b *bench) late(rows ...*result) bool {
	if time.Since(b.began) < b.limit {
		return false
	}
	for _, r := range rows {
		b.report.Skipped = append(b.report.Skipped, fmt.Sprintf("%s: the run had taken its %s", r.Name, b.limit))
		b.progress("%s: left out, the run has taken its %s", r.Name, b.limit)
	}
	return true
}

// measure takes rounds of measurements, one system after the other in each, another one first each time. A system that fails is not measured again in this row.
func (b *bench) measure(ctx context.Context, systems []system, row *result, fn func(s system) (float64, error)) {
	if ctx.Err() != nil || !b.wanted(row) || b.late(row) {
		return
	}
	b.progress("%s: %d rounds", row.Name, b.config.rounds)
	for round := range b.config.rounds {
		for i := range systems {
			s := systems[(round+i)%len(systems)]
			if !row.over(s) {
				v, err := fn(s)
				row.took(ctx, s, v, err)
			}
		}
	}
	b.add(ctx, row)
}

// over says that the system is not measured any more in this row.
func (r *result) over(s system) bool { return r.Failed[s.name()] != "" || r.LeftOut[s.name()] != "" }

// took notes a measurement, or why there is none.
func (r *result) took(ctx context.Context, s system, v float64, err error) {
	var left leftOut
	switch {
	case ctx.Err() != nil:
	case errors.As(err, &left):
		r.LeftOut[s.name()] = string(left)
	case err != nil:
		r.Failed[s.name()] = strings.ReplaceAll(err.Error(), "\n", " ")
	default:
		r.Values[s.name()] = append(r.Values[s.name()], v)
	}
}

// fail notes an error in all rows that it keeps from being measured.
func fail(ctx context.Context, s system, err error, rows ...*result) {
	for _, r := range rows {
		if !r.over(s) {
			r.took(ctx, s, 0, err)
		}
	}
}

// add prints rows and keeps them.
func (b *bench) add(ctx context.Context, rows ...*result) {
	if ctx.Err() != nil {
		return
	}
	for _, row := range rows {
		if b.wanted(row) {
			b.report.Rows = append(b.report.Rows, row)
			fmt.Println(row.text(b.report.Systems))
		}
	}
}

// makeStores makes the stores with the numbers from and below to.
func makeStores(ctx context.Context, s system, from, to, atOnce int) error {
	return all(to-from, atOnce, func(i int) error {
		return eventually(ctx, "the store is made", func() error {
			try, stop := context.WithTimeout(ctx, 20*time.Second)
			defer stop()
			return s.store(try, from+i)
		}, func(err error) bool { return !errors.As(err, new(leftOut)) })
	})
}

// notLeft drops the error that says that something need not be done.
func notLeft(err error) error {
	if errors.As(err, new(leftOut)) {
		return nil
	}
	return err
}
