// Command generate writes the order events of examples/orders: the same ones at every run.
//
//	go run ./examples/orders/generate > examples/orders/orders.ndjson
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

type line struct {
	Stream   string         `json:"stream"`
	ID       string         `json:"id"`
	Type     string         `json:"type"`
	Data     map[string]any `json:"data"`
	Tags     []string       `json:"tags,omitempty"`
	Metadata map[string]any `json:"metadata"`
	at       time.Time
}

var (
	goods = []struct {
		sku, name string
		cents     int
	}{
		{"TEA-ASSAM-100", "Assam, 100 g", 690}, {"TEA-SENCHA-50", "Sencha, 50 g", 1240}, {"POT-STEEL-1L", "Teapot, steel, 1 l", 3490},
		{"CUP-GLASS-2", "Two glass cups", 1590}, {"FILTER-PAPER-100", "Paper filters, 100", 390}, {"KETTLE-0.8", "Gooseneck kettle, 0.8 l", 6900},
		{"HONEY-LIME-250", "Lime honey, 250 g", 850}, {"TEA-EARLGREY-100", "Earl Grey, 100 g", 720},
	}
	cities   = []string{"Gent", "Antwerpen", "Łódź", "København", "Málaga", "Zürich", "Graz", "Tartu"}
	carriers = []string{"postnord", "bpost", "dhl", "gls"}
	reasons  = []string{"customer changed their mind", "payment declined", "out of stock", "address not found"}
)

func main() {
	r := rand.New(rand.NewPCG(42, 4222))
	start := time.Date(2026, 9, 1, 6, 0, 0, 0, time.UTC)
	var lines []line
	for n := range 520 {
		lines = append(lines, order(r, 10001+n, start.Add(time.Duration(n)*7*time.Minute+time.Duration(r.IntN(300))*time.Second))...)
	}
	// Orders overlap in time, as they do in a shop: sort by time, stable within an order.
	for i := 1; i < len(lines); i++ {
		for j := i; j > 0 && lines[j].at.Before(lines[j-1].at); j-- {
			lines[j], lines[j-1] = lines[j-1], lines[j]
		}
	}
	w := bufio.NewWriter(os.Stdout)
	defer w.Flush()
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// order lives one order's life.
func order(r *rand.Rand, number int, at time.Time) []line {
	stream := fmt.Sprintf("order-%d", number)
	customer := fmt.Sprintf("c-%04d", 1000+r.IntN(180))
	var out []line
	add := func(typ string, data map[string]any) {
		out = append(out, line{
			Stream: stream, ID: fmt.Sprintf("%s-%s-%08x", stream, typ, r.Uint32()), Type: typ, Data: data, at: at,
			Tags:     []string{"customer:" + customer},
			Metadata: map[string]any{"at": at.Format(time.RFC3339), "correlation": fmt.Sprintf("web-%08x", r.Uint32())},
		})
		at = at.Add(time.Duration(1+r.IntN(240)) * time.Minute)
	}
	var items []map[string]any
	total := 0
	for range 1 + r.IntN(4) {
		g, quantity := goods[r.IntN(len(goods))], 1+r.IntN(3)
		items = append(items, map[string]any{"sku": g.sku, "name": g.name, "quantity": quantity, "unit_cents": g.cents})
		total += quantity * g.cents
	}
	add("OrderPlaced", map[string]any{
		"order": number, "customer": customer, "items": items, "total_cents": total, "currency": "EUR",
		"ship_to": map[string]any{"city": cities[r.IntN(len(cities))], "zip": fmt.Sprint(1000 + r.IntN(8999))},
	})
	if r.IntN(12) == 0 {
		add("OrderCancelled", map[string]any{"order": number, "reason": reasons[r.IntN(2)]})
		return out
	}
	add("PaymentAuthorized", map[string]any{"order": number, "cents": total, "method": []string{"card", "sepa", "paypal"}[r.IntN(3)]})
	if r.IntN(20) == 0 {
		add("OrderCancelled", map[string]any{"order": number, "reason": reasons[2]})
		add("RefundIssued", map[string]any{"order": number, "cents": total})
		return out
	}
	add("OrderPacked", map[string]any{"order": number, "parcels": 1 + r.IntN(2), "grams": 200 + r.IntN(4000)})
	add("PaymentCaptured", map[string]any{"order": number, "cents": total})
	add("OrderShipped", map[string]any{"order": number, "carrier": carriers[r.IntN(len(carriers))], "tracking": fmt.Sprintf("Q%011d", r.Int64N(1e11))})
	if r.IntN(40) == 0 {
		add("DeliveryFailed", map[string]any{"order": number, "reason": reasons[3]})
	}
	add("OrderDelivered", map[string]any{"order": number, "signed_by": []string{"customer", "neighbour", "locker"}[r.IntN(3)]})
	if r.IntN(15) == 0 {
		add("ReturnRequested", map[string]any{"order": number, "sku": items[0]["sku"], "quantity": 1})
		add("RefundIssued", map[string]any{"order": number, "cents": items[0]["unit_cents"]})
	}
	return out
}
