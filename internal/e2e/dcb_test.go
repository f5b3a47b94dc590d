package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/client"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestDCBScenarios runs the scenarios of the examples at dcb.events: given events, when a command is carried out, then there is one more event, or an error and none.
func TestDCBScenarios(t *testing.T) {
	c := testcluster.Start(t, 3)
	cl := client.New(c.Connect())
	ctx, cancel := context.WithTimeout(context.Background(), 2*testcluster.Patience)
	defer cancel()

	type when = func(st *client.Store) error
	course := func(id string, capacity int) api.NewEvent {
		return client.Event("CourseDefined", body{Course: id, Capacity: capacity}, "course:"+id)
	}
	registered := func(name string, at int) api.NewEvent {
		return client.Event("AccountRegistered", body{Name: name, At: at}, "username:"+name)
	}
	closed := func(name string, at int) api.NewEvent {
		return client.Event("AccountClosed", body{Name: name, At: at}, "username:"+name)
	}
	renamed := func(from, to string, at int) api.NewEvent {
		return client.Event("UsernameChanged", body{Name: from, NewName: to, At: at}, "username:"+from, "username:"+to)
	}
	invoice := func(n int) api.NewEvent { return client.Event("InvoiceCreated", body{Number: n}) }
	signUp := func(typ, email, token string, at int) api.NewEvent {
		return client.Event(typ, body{Email: email, Token: token, Name: "Ada", At: at}, "email:"+email, "token:"+token)
	}
	confirmed := client.Event("SignUpConfirmed", body{Email: "a@x", Token: "111", Name: "Ada"}, "email:a@x", "token:111")
	price := func(typ, product string, price, at int) api.NewEvent {
		return client.Event(typ, body{Product: product, Price: price, At: at}, "product:"+product)
	}
	ordered := func(now int, items ...priced) *api.NewEvent {
		var tags []string
		for _, it := range items {
			tags = append(tags, "product:"+it.Product)
		}
		e := client.Event("ProductsOrdered", body{Items: items, At: now}, tags...)
		return &e
	}
	order := func(id, token string) api.NewEvent {
		return client.Event("OrderPlaced", body{Order: id, Token: token}, "order:"+id, "idempotency:"+token)
	}
	one := func(e api.NewEvent) *api.NewEvent { return &e }
	subscribes := func(student, course string) when {
		return func(st *client.Store) error { return subscribe(ctx, st, student, course) }
	}
	registers := func(name string) when {
		return func(st *client.Store) error { return register(ctx, st, name, 10) }
	}
	confirms := func(email, token string) when {
		return func(st *client.Store) error { return confirmSignUp(ctx, st, email, token, 70) }
	}
	orders := func(items ...priced) when {
		return func(st *client.Store) error { return orderProducts(ctx, st, 20, items...) }
	}
	invoices := func(st *client.Store) error { _, err := createInvoice(ctx, st); return err }

	for i, row := range []struct {
		name  string
		given []api.NewEvent
		when  when
		want  *api.NewEvent
		err   string
	}{
		{"course, existing id", given(course("c1", 10)), func(st *client.Store) error { return defineCourse(ctx, st, "c1", 15) }, nil, "exists already"},
		{"course, new id", nil, func(st *client.Store) error { return defineCourse(ctx, st, "c1", 15) }, one(course("c1", 15)), ""},
		{"capacity of no course", nil, func(st *client.Store) error { return changeCapacity(ctx, st, "c0", 15) }, nil, "does not exist"},
		{"capacity as it is", given(course("c1", 12)), func(st *client.Store) error { return changeCapacity(ctx, st, "c1", 12) }, nil, "that capacity"},
		{"another capacity", given(course("c1", 12)), func(st *client.Store) error { return changeCapacity(ctx, st, "c1", 15) },
			one(client.Event("CourseCapacityChanged", body{Course: "c1", Capacity: 15}, "course:c1")), ""},
		{"subscribe to no course", nil, subscribes("s1", "c0"), nil, "does not exist"},
		{"subscribe to a full course", given(course("c1", 3), subscribed("s1", "c1"), subscribed("s2", "c1"), subscribed("s3", "c1")), subscribes("s4", "c1"), nil, "is full"},
		{"subscribe twice", given(course("c1", 10), subscribed("s1", "c1")), subscribes("s1", "c1"), nil, "already"},
		{"subscribe to a sixth course", given(course("c6", 10), subscribed("s1", "c1"), subscribed("s1", "c2"), subscribed("s1", "c3"), subscribed("s1", "c4"), subscribed("s1", "c5")),
			subscribes("s1", "c6"), nil, "in 5 courses"},
		{"subscribe where there is a seat", given(course("c1", 10)), subscribes("s1", "c1"), one(subscribed("s1", "c1")), ""},

		{"claimed name", given(registered("u1", 0)), registers("u1"), nil, "claimed"},
		{"unused name", given(registered("u2", 0)), registers("u1"), one(registered("u1", 10)), ""},
		{"name of an account closed long ago", given(registered("u1", 0), closed("u1", 6)), registers("u1"), one(registered("u1", 10)), ""},
		{"name of an account closed lately", given(registered("u1", 0), closed("u1", 7)), registers("u1"), nil, "claimed"},
		{"name that was given up long ago", given(registered("u1", 0), renamed("u1", "u9", 6)), registers("u1"), one(registered("u1", 10)), ""},
		{"name that was given up lately", given(registered("u1", 0), renamed("u1", "u9", 7)), registers("u1"), nil, "claimed"},
		{"name that an account changed to", given(registered("u1", 0), renamed("u1", "u9", 0)), registers("u9"), nil, "claimed"},

		{"first invoice", nil, invoices, one(invoice(1)), ""},
		{"second invoice", given(invoice(1)), invoices, one(invoice(2)), ""},

		{"no such token", nil, confirms("a@x", "111"), nil, "no sign-up is pending"},
		{"token of another address", given(signUp("SignUpInitiated", "b@x", "111", 30)), confirms("a@x", "111"), nil, "no sign-up is pending"},
		{"used token", given(signUp("SignUpInitiated", "a@x", "111", 30), confirmed), confirms("a@x", "111"), nil, "used already"},
		{"expired token", given(signUp("SignUpInitiated", "a@x", "111", 9)), confirms("a@x", "111"), nil, "no sign-up is pending"},
		{"valid token", given(signUp("SignUpInitiated", "a@x", "111", 10)), confirms("a@x", "111"), &confirmed, ""},

		{"wrong price", given(price("ProductDefined", "p1", 123, 0)), orders(priced{"p1", 100}), nil, "not valid"},
		{"right price", given(price("ProductDefined", "p1", 123, 0)), orders(priced{"p1", 123}), ordered(20, priced{"p1", 123}), ""},
		{"price of no product", nil, orders(priced{"p1", 0}), nil, "not valid"},
		{"price changed long ago", given(price("ProductDefined", "p1", 123, 0), price("ProductPriceChanged", "p1", 134, 9)), orders(priced{"p1", 123}), nil, "not valid"},
		{"price changed lately, the old one", given(price("ProductDefined", "p1", 123, 0), price("ProductPriceChanged", "p1", 134, 11)), orders(priced{"p1", 123}), ordered(20, priced{"p1", 123}), ""},
		{"price changed lately, the new one", given(price("ProductDefined", "p1", 123, 0), price("ProductPriceChanged", "p1", 134, 11)), orders(priced{"p1", 134}), ordered(20, priced{"p1", 134}), ""},
		{"a price of two that never was", given(price("ProductDefined", "p1", 123, 0), price("ProductDefined", "p2", 321, 0)), orders(priced{"p1", 123}, priced{"p2", 123}), nil, "price of p2"},
		{"several products", given(price("ProductDefined", "p1", 123, 0), price("ProductDefined", "p2", 321, 0), price("ProductPriceChanged", "p1", 134, 11), price("ProductPriceChanged", "p2", 300, 11)),
			orders(priced{"p1", 123}, priced{"p2", 300}), ordered(20, priced{"p1", 123}, priced{"p2", 300}), ""},

		{"idempotency token, again", given(order("o1", "t1")), func(st *client.Store) error { return placeOrder(ctx, st, "o2", "t1") }, nil, "sent before"},
		{"idempotency token, new", given(order("o1", "t1")), func(st *client.Store) error { return placeOrder(ctx, st, "o2", "t2") }, one(order("o2", "t2")), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			name := fmt.Sprintf("dcb-%d", i)
			c.CreateStore(cl, name)
			st := cl.Store(name)
			before := uint64(0)
			if len(row.given) > 0 {
				for i := range row.given {
					row.given[i].Stream, row.given[i].ID = "given", ""
				}
				res, err := st.AppendSeveral(ctx, row.given)
				if err != nil {
					t.Fatal(err)
				}
				before = res.Position
			}
			err := row.when(st)
			if (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
				t.Errorf("got error %v, want %q", err, row.err)
			}
			var got []api.Event
			for e, err := range st.ReadAll(ctx, client.ReadOptions{From: before}) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, e)
			}
			switch {
			case row.want == nil && len(got) > 0:
				t.Errorf("got %+v, want no event", got)
			case row.want != nil && (len(got) != 1 || got[0].Type != row.want.Type || string(got[0].Data) != string(row.want.Data) || !reflect.DeepEqual(got[0].Tags, row.want.Tags)):
				t.Errorf("got %+v, want %+v", got, row.want)
			}
		})
	}
}

func given(events ...api.NewEvent) []api.NewEvent { return events }

// TestDCBRaces carries the commands out from all nodes at once, while the leader moves, and holds what was written against the rules.
func TestDCBRaces(t *testing.T) {
	c := testcluster.Start(t, 3)
	admin := client.New(c.Connect())
	ctx, cancel := context.WithTimeout(context.Background(), 2*testcluster.Patience)
	defer cancel()

	// race runs the command for each of n racers, who are spread over the nodes, and counts who succeeded. The leader moves meanwhile.
	race := func(t *testing.T, store string, racers int, command func(st *client.Store, racer int) error) (won int, refused []error) {
		t.Helper()
		var mu sync.Mutex
		var wg sync.WaitGroup
		started, ended := make(chan struct{}), make(chan struct{})
		for r := range racers {
			st := client.New(c.Nodes[r%3].Connect()).Store(store)
			wg.Go(func() { // ends with its command
				<-started
				err := command(st, r)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else {
					refused = append(refused, err)
				}
				var e *api.Error
				if errors.As(err, &e) {
					t.Errorf("racer %d: %v", r, err)
				}
			})
		}
		close(started)
		go func() { wg.Wait(); close(ended) }()
		moved := 0
		for running := true; running; {
			select {
			case <-ended:
				running = false
			default:
				if _, err := admin.Transfer(ctx, store, ""); err == nil {
					moved++
				}
			}
		}
		t.Logf("%s: %d of %d won, the leader moved %d times", store, won, racers, moved)
		return won, refused
	}
	events := func(t *testing.T, store string) (all []api.Event, bodies []body) {
		t.Helper()
		for e, err := range admin.Store(store).ReadAll(ctx, client.ReadOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			b, err := client.Data[body](e)
			if err != nil {
				t.Fatal(err)
			}
			all, bodies = append(all, e), append(bodies, b)
		}
		return all, bodies
	}
	store := func(t *testing.T, name string) *client.Store {
		t.Helper()
		c.CreateStore(admin, name)
		return admin.Store(name)
	}

	t.Run("course subscriptions", func(t *testing.T) {
		st := store(t, "race-courses")
		const courses, seats, students, tries = 8, 4, 9, 10
		for i := range courses {
			if err := defineCourse(ctx, st, fmt.Sprint(i), seats); err != nil {
				t.Fatal(err)
			}
		}
		race(t, "race-courses", students, func(st *client.Store, r int) error {
			rnd := rand.New(rand.NewPCG(11, uint64(r)))
			var last error
			for range tries {
				if err := subscribe(ctx, st, fmt.Sprint(r), fmt.Sprint(rnd.IntN(courses))); err != nil {
					last = err
				}
			}
			return last
		})
		taken, joined, twice := map[string]int{}, map[string]int{}, map[string]bool{}
		all, bodies := events(t, "race-courses")
		for i, e := range all {
			if b := bodies[i]; e.Type == "StudentSubscribedToCourse" {
				taken[b.Course]++
				joined[b.Student]++
				if key := b.Course + "/" + b.Student; twice[key] {
					t.Errorf("%s twice", key)
				} else {
					twice[key] = true
				}
				if taken[b.Course] > seats || joined[b.Student] > maxCourses {
					t.Errorf("position %d: course %s has %d students, student %s has %d courses", e.Position, b.Course, taken[b.Course], b.Student, joined[b.Student])
				}
			}
		}
		if len(all) < courses+20 {
			t.Errorf("only %d subscriptions", len(all)-courses)
		}
	})
	t.Run("unique username", func(t *testing.T) {
		store(t, "race-names")
		won, refused := race(t, "race-names", 12, func(st *client.Store, r int) error { return register(ctx, st, "ada", 1) })
		if all, _ := events(t, "race-names"); won != 1 || len(refused) != 11 || len(all) != 1 {
			t.Errorf("%d won, %d events", won, len(all))
		}
	})
	t.Run("invoice number", func(t *testing.T) {
		store(t, "race-invoices")
		const each = 6
		won, refused := race(t, "race-invoices", 9, func(st *client.Store, r int) error {
			for range each {
				if _, err := createInvoice(ctx, st); err != nil {
					return err
				}
			}
			return nil
		})
		_, bodies := events(t, "race-invoices")
		for i, b := range bodies {
			if b.Number != i+1 {
				t.Errorf("invoice %d has number %d", i+1, b.Number)
			}
		}
		if won != 9 || len(bodies) != 9*each {
			t.Errorf("%d won, %d invoices, %v", won, len(bodies), refused)
		}
	})
	t.Run("opt-in token", func(t *testing.T) {
		st := store(t, "race-tokens")
		if _, err := st.Append(ctx, "given", given(client.Event("SignUpInitiated", body{Email: "a@x", Token: "111"}, "email:a@x", "token:111")), client.Any); err != nil {
			t.Fatal(err)
		}
		if won, _ := race(t, "race-tokens", 9, func(st *client.Store, r int) error { return confirmSignUp(ctx, st, "a@x", "111", 5) }); won != 1 {
			t.Errorf("%d won", won)
		}
	})
	t.Run("dynamic product price", func(t *testing.T) {
		st := store(t, "race-prices")
		// Without grace the price that holds is the last one: an order at another one was decided on what is not true any more.
		if _, err := st.Append(ctx, "given", given(client.Event("ProductDefined", body{Product: "p", Price: 1}, "product:p")), client.Any); err != nil {
			t.Fatal(err)
		}
		now := graceMinutes + 1
		race(t, "race-prices", 9, func(st *client.Store, r int) error {
			for i := range 8 {
				if r < 2 {
					if _, err := st.Append(ctx, "prices", given(client.Event("ProductPriceChanged", body{Product: "p", Price: 10*i + r + 2}, "product:p")), client.Any); err != nil {
						return err
					}
					continue
				}
				shown := 1
				for e, err := range st.ReadAll(ctx, client.ReadOptions{Backward: true, FromEnd: true}) {
					b, derr := client.Data[body](e)
					if err = errors.Join(err, derr); err != nil {
						return err
					}
					if b.Price > 0 {
						shown = b.Price
						break
					}
				}
				_ = orderProducts(ctx, st, now, priced{"p", shown}) // refused when the price has changed
			}
			return nil
		})
		holds, orders := 0, 0
		all, bodies := events(t, "race-prices")
		for i, b := range bodies {
			if all[i].Type != "ProductsOrdered" {
				holds = b.Price
			} else if orders++; b.Items[0].Price != holds {
				t.Errorf("position %d: ordered at %d, the price is %d", all[i].Position, b.Items[0].Price, holds)
			}
		}
		if orders == 0 {
			t.Error("nothing was ordered")
		}
	})
	t.Run("event-sourced aggregate", func(t *testing.T) {
		st := store(t, "race-aggregates")
		courses := courseAggregates(st)
		g, err := courses.Load(ctx, "course-c")
		if err != nil || g.Version != client.NoStream {
			t.Fatalf("got %+v, %v", g, err)
		}
		if _, err := courses.Save(ctx, g, client.Event("CourseDefined", body{Course: "c", Capacity: 7})); err != nil || g.State.Capacity != 7 || g.Version != 0 {
			t.Fatalf("got %+v, %v", g, err)
		}
		won, _ := race(t, "race-aggregates", 12, func(st *client.Store, r int) error {
			return subscribeInAggregate(ctx, courseAggregates(st), fmt.Sprint(r), "c")
		})
		g, err = courses.Load(ctx, "course-c")
		if err != nil || won != 7 || len(g.State.Students) != 7 || g.Version != 7 {
			t.Errorf("%d won; got %+v, %v", won, g, err)
		}
		if snaps, err := st.Snapshots(ctx, "course-c"); err != nil || len(snaps) == 0 {
			t.Errorf("snapshots: %v, %v", snaps, err)
		}
	})
	t.Run("prevent record duplication", func(t *testing.T) {
		store(t, "race-orders")
		won, _ := race(t, "race-orders", 9, func(st *client.Store, r int) error { return placeOrder(ctx, st, fmt.Sprint(r), "form-1") })
		if all, _ := events(t, "race-orders"); won != 1 || len(all) != 1 {
			t.Errorf("%d won, %d events", won, len(all))
		}
	})
}
