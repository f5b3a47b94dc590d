// Command courses lets students subscribe to courses: a course has so many seats, and a student takes five courses at most. Each rule is about another entity, and
// both must hold, so this is one decision over the events of both: the dynamic consistency boundary (dcb.events).
//
//	make run                      # in another terminal
//	go run ./examples/courses     # ten students want one of three seats, all at once
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	url := nats.DefaultURL
	if v := os.Getenv("NATS_URL"); v != "" {
		url = v
	}
	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cl := client.New(nc)
	if _, err := cl.CreateStore(ctx, "courses", api.ConfigPutRequest{}); err != nil {
		return err
	}
	school := &school{cl.Store("courses")}

	if err := school.define(ctx, "tea-101", 3); err != nil && !errors.Is(err, errExists) {
		return err
	}
	var wg sync.WaitGroup
	for i := range 10 {
		student := fmt.Sprintf("student-%d", i)
		wg.Go(func() {
			if err := school.subscribe(ctx, student, "tea-101"); err != nil {
				fmt.Printf("%s: %v\n", student, err)
				return
			}
			fmt.Printf("%s has a seat\n", student)
		})
	}
	wg.Wait()
	return nil
}

// What students are told.
var (
	errExists  = errors.New("the course exists already")
	errUnknown = errors.New("there is no such course")
	errFull    = errors.New("the course is full")
	errTwice   = errors.New("you are in this course already")
	errBusy    = errors.New("you are in five courses already")
)

const maxCourses = 5

type school struct{ store *client.Store }

type course struct {
	Capacity int `json:"capacity"`
}

// define adds a course, if there is none of that name.
func (s *school) define(ctx context.Context, name string, capacity int) error {
	_, _, err := client.Decide(ctx, s.store, client.Decision[bool]{
		Query:  client.Select(api.QueryItem{Types: []string{"CourseDefined"}, Tags: []string{"course:" + name}}),
		Evolve: func(bool, api.Event) (bool, error) { return true, nil },
		Decide: func(exists bool) ([]api.NewEvent, error) {
			if exists {
				return nil, errExists
			}
			return []api.NewEvent{client.Event("CourseDefined", course{capacity}, "course:"+name)}, nil
		},
		Stream: "course-" + name,
	})
	return err
}

// enrolment is what a subscription is decided on.
type enrolment struct {
	exists   bool
	capacity int
	taken    int // seats of the course
	joined   int // courses of the student
	twice    bool
}

// subscribe gives the student a seat in the course.
func (s *school) subscribe(ctx context.Context, student, name string) error {
	courseTag, studentTag := "course:"+name, "student:"+student
	_, _, err := client.Decide(ctx, s.store, client.Decision[enrolment]{
		Query: client.Select(
			api.QueryItem{Types: []string{"CourseDefined", "StudentSubscribed"}, Tags: []string{courseTag}},
			api.QueryItem{Types: []string{"StudentSubscribed"}, Tags: []string{studentTag}},
		),
		Evolve: func(e enrolment, event api.Event) (enrolment, error) {
			if event.Type == "CourseDefined" {
				c, err := client.Data[course](event)
				e.exists, e.capacity = true, c.Capacity
				return e, err
			}
			here, theirs := slices.Contains(event.Tags, courseTag), slices.Contains(event.Tags, studentTag)
			if here {
				e.taken++
			}
			if theirs {
				e.joined++
			}
			e.twice = e.twice || here && theirs
			return e, nil
		},
		Decide: func(e enrolment) ([]api.NewEvent, error) {
			switch {
			case !e.exists:
				return nil, errUnknown
			case e.twice:
				return nil, errTwice
			case e.taken >= e.capacity:
				return nil, errFull
			case e.joined >= maxCourses:
				return nil, errBusy
			}
			return []api.NewEvent{client.Event("StudentSubscribed", nil, courseTag, studentTag)}, nil
		},
		Stream: "course-" + name,
	})
	return err
}
