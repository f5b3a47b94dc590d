package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
)

// The commands of the examples at dcb.events, each one decision over what it depends on. Their clock is a number in the data, "at", so that an event can be old.

// body is the data of all their events.
type body struct {
	Course   string   `json:"course,omitempty"`
	Student  string   `json:"student,omitempty"`
	Capacity int      `json:"capacity,omitempty"`
	Name     string   `json:"name,omitempty"`
	NewName  string   `json:"new_name,omitempty"`
	Number   int      `json:"number,omitempty"`
	Email    string   `json:"email,omitempty"`
	Token    string   `json:"token,omitempty"`
	Product  string   `json:"product,omitempty"`
	Price    int      `json:"price,omitempty"`
	Items    []priced `json:"items,omitempty"`
	Order    string   `json:"order,omitempty"`
	At       int      `json:"at,omitempty"`
}

type priced struct {
	Product string `json:"product"`
	Price   int    `json:"price"`
}

func items(typesAndTags ...[]string) api.Query {
	var q api.Query
	for i := 0; i < len(typesAndTags); i += 2 {
		q.Items = append(q.Items, api.QueryItem{Types: typesAndTags[i], Tags: typesAndTags[i+1]})
	}
	return q
}

func list(texts ...string) []string { return texts }

// decision runs one command. evolve gets the event's data.
func decision[S any](ctx context.Context, st *client.Store, q api.Query, state S, evolve func(S, string, []string, body) S, decide func(S) (api.NewEvent, error)) error {
	_, _, err := client.Decide(ctx, st, client.Decision[S]{
		Query: q, State: state, Stream: "decided", Attempts: 500,
		Evolve: func(s S, e api.Event) (S, error) {
			b, err := client.Data[body](e)
			return evolve(s, e.Type, e.Tags, b), err
		},
		Decide: func(s S) ([]api.NewEvent, error) {
			e, err := decide(s)
			return []api.NewEvent{e}, err
		},
	})
	return err
}

// Courses: a course has so many seats, and a student takes five courses at most.

type courseState struct {
	exists                 bool
	capacity, seats, joins int
	already                bool
}

const maxCourses = 5

var courseTypes = list("CourseDefined", "CourseCapacityChanged", "StudentSubscribedToCourse")

func (s courseState) after(typ string, tags []string, b body, course, student string) courseState {
	inCourse, byStudent := slices.Contains(tags, "course:"+course), slices.Contains(tags, "student:"+student)
	switch {
	case typ == "StudentSubscribedToCourse":
		if inCourse {
			s.seats++
		}
		if byStudent {
			s.joins++
		}
		s.already = s.already || inCourse && byStudent
	case inCourse:
		s.exists, s.capacity = true, b.Capacity
	}
	return s
}

func defineCourse(ctx context.Context, st *client.Store, course string, capacity int) error {
	return decision(ctx, st, items(list("CourseDefined"), list("course:"+course)), false,
		func(bool, string, []string, body) bool { return true },
		func(exists bool) (api.NewEvent, error) {
			if exists {
				return api.NewEvent{}, fmt.Errorf("course %s exists already", course)
			}
			return client.Event("CourseDefined", body{Course: course, Capacity: capacity}, "course:"+course), nil
		})
}

func changeCapacity(ctx context.Context, st *client.Store, course string, capacity int) error {
	return decision(ctx, st, items(list("CourseDefined", "CourseCapacityChanged"), list("course:"+course)), courseState{},
		func(s courseState, typ string, tags []string, b body) courseState {
			return s.after(typ, tags, b, course, "")
		},
		func(s courseState) (api.NewEvent, error) {
			switch {
			case !s.exists:
				return api.NewEvent{}, fmt.Errorf("course %s does not exist", course)
			case s.capacity == capacity:
				return api.NewEvent{}, fmt.Errorf("course %s has that capacity already", course)
			}
			return client.Event("CourseCapacityChanged", body{Course: course, Capacity: capacity}, "course:"+course), nil
		})
}

func subscribe(ctx context.Context, st *client.Store, student, course string) error {
	q := items(courseTypes, list("course:"+course), list("StudentSubscribedToCourse"), list("student:"+student))
	return decision(ctx, st, q, courseState{},
		func(s courseState, typ string, tags []string, b body) courseState {
			return s.after(typ, tags, b, course, student)
		},
		func(s courseState) (api.NewEvent, error) {
			switch {
			case !s.exists:
				return api.NewEvent{}, fmt.Errorf("course %s does not exist", course)
			case s.already:
				return api.NewEvent{}, fmt.Errorf("student %s is in course %s already", student, course)
			case s.seats >= s.capacity:
				return api.NewEvent{}, fmt.Errorf("course %s is full", course)
			case s.joins >= maxCourses:
				return api.NewEvent{}, fmt.Errorf("student %s is in %d courses already", student, s.joins)
			}
			return subscribed(student, course), nil
		})
}

func subscribed(student, course string) api.NewEvent {
	return client.Event("StudentSubscribedToCourse", body{Student: student, Course: course}, "student:"+student, "course:"+course)
}

// User names: one account has a name at a time. A name is free again three days after it was given up.

const retentionDays = 3

func register(ctx context.Context, st *client.Store, name string, today int) error {
	return decision(ctx, st, items(list("AccountRegistered", "AccountClosed", "UsernameChanged"), list("username:"+name)), false,
		func(_ bool, typ string, _ []string, b body) bool {
			return typ == "AccountRegistered" || typ == "UsernameChanged" && b.NewName == name || today-b.At <= retentionDays
		},
		func(claimed bool) (api.NewEvent, error) {
			if claimed {
				return api.NewEvent{}, fmt.Errorf("username %s is claimed", name)
			}
			return client.Event("AccountRegistered", body{Name: name, At: today}, "username:"+name), nil
		})
}

// Invoices: numbers without a gap. Only the last one is read.

func createInvoice(ctx context.Context, st *client.Store) (int, error) {
	number := 0
	q := items(list("InvoiceCreated"), nil)
	for {
		next, after := 1, uint64(0)
		for e, err := range st.ReadAll(ctx, client.ReadOptions{Query: &q, Backward: true, FromEnd: true, Limit: 1}) {
			if err != nil {
				return 0, err
			}
			b, err := client.Data[body](e)
			if err != nil {
				return 0, err
			}
			next, after = b.Number+1, e.Position
		}
		number = next
		_, err := st.Append(ctx, "invoices", []api.NewEvent{client.Event("InvoiceCreated", body{Number: number})}, client.Any, client.NothingNew(q, after))
		if !errors.Is(err, api.ErrCondition) {
			return number, err
		}
	}
}

// Opt-in: a token confirms the address it was sent to, once, within an hour.

type signUp struct {
	pending, used bool
	at            int
	name          string
}

func confirmSignUp(ctx context.Context, st *client.Store, email, token string, now int) error {
	return decision(ctx, st, items(list("SignUpInitiated", "SignUpConfirmed"), list("email:"+email, "token:"+token)), signUp{},
		func(s signUp, typ string, _ []string, b body) signUp {
			if typ == "SignUpConfirmed" {
				s.used = true
				return s
			}
			return signUp{pending: true, at: b.At, name: b.Name}
		},
		func(s signUp) (api.NewEvent, error) {
			switch {
			case !s.pending || now-s.at > 60:
				return api.NewEvent{}, errors.New("no sign-up is pending for this token and address")
			case s.used:
				return api.NewEvent{}, errors.New("the token was used already")
			}
			return client.Event("SignUpConfirmed", body{Email: email, Token: token, Name: s.name}, "email:"+email, "token:"+token), nil
		})
}

// Prices: an order is taken at the price that was shown, when that price holds or did until ten minutes ago.

const graceMinutes = 10

// validPrices keeps, for each product, the prices that an order may have now.
type validPrices map[string]priceState

type priceState struct {
	old   int // the last one from before the grace period; 0: none
	newer []int
}

func (v validPrices) after(b body, now int) validPrices {
	p := v[b.Product]
	if now-b.At <= graceMinutes {
		p.newer = append(slices.Clone(p.newer), b.Price)
	} else {
		p = priceState{old: b.Price}
	}
	v[b.Product] = p
	return v
}

func orderProducts(ctx context.Context, st *client.Store, now int, shown ...priced) error {
	var q api.Query
	var tags []string
	for _, it := range shown {
		q.Items = append(q.Items, api.QueryItem{Types: list("ProductDefined", "ProductPriceChanged"), Tags: list("product:" + it.Product)})
		tags = append(tags, "product:"+it.Product)
	}
	return decision(ctx, st, q, validPrices{},
		func(v validPrices, _ string, _ []string, b body) validPrices { return v.after(b, now) },
		func(v validPrices) (api.NewEvent, error) {
			for _, it := range shown {
				if p := v[it.Product]; it.Price == 0 || it.Price != p.old && !slices.Contains(p.newer, it.Price) {
					return api.NewEvent{}, fmt.Errorf("the price of %s is not valid", it.Product)
				}
			}
			return client.Event("ProductsOrdered", body{Items: shown, At: now}, tags...), nil
		})
}

// Record duplication: a form is taken once, however often it is sent.

func placeOrder(ctx context.Context, st *client.Store, order, token string) error {
	return decision(ctx, st, items(list("OrderPlaced"), list("idempotency:"+token)), false,
		func(bool, string, []string, body) bool { return true },
		func(again bool) (api.NewEvent, error) {
			if again {
				return api.NewEvent{}, errors.New("this was sent before")
			}
			return client.Event("OrderPlaced", body{Order: order, Token: token}, "order:"+order, "idempotency:"+token), nil
		})
}

// Aggregate: the course again, as one stream that is loaded whole.

type courseAggregate struct {
	Capacity int             `json:"capacity"`
	Students map[string]bool `json:"students"`
}

func courseAggregates(st *client.Store) *client.Aggregates[courseAggregate] {
	return &client.Aggregates[courseAggregate]{
		Store: st, SnapshotEvery: 3, SnapshotType: "Course/1", Attempts: 500,
		New: func() courseAggregate { return courseAggregate{Students: map[string]bool{}} },
		Evolve: func(c courseAggregate, e api.Event) (courseAggregate, error) {
			b, err := client.Data[body](e)
			if e.Type == "StudentSubscribedToCourse" {
				c.Students[b.Student] = true
			} else {
				c.Capacity = b.Capacity
			}
			return c, err
		},
	}
}

func subscribeInAggregate(ctx context.Context, courses *client.Aggregates[courseAggregate], student, course string) error {
	_, err := courses.Update(ctx, "course-"+course, func(c courseAggregate) ([]api.NewEvent, error) {
		switch {
		case c.Capacity == 0:
			return nil, fmt.Errorf("course %s does not exist", course)
		case c.Students[student]:
			return nil, fmt.Errorf("student %s is in course %s already", student, course)
		case len(c.Students) >= c.Capacity:
			return nil, fmt.Errorf("course %s is full", course)
		}
		return []api.NewEvent{subscribed(student, course)}, nil
	})
	return err
}
