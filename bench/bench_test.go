package main

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFigures(t *testing.T) {
	if got := median([]float64{5, 1, 3}); got != 3 {
		t.Errorf("median of three: %v", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median of four: %v", got)
	}
	if got := ratios([]float64{2, 9, 8}, []float64{1, 3, 2}); got != "2.00 / 3.00 / 4.00" {
		t.Errorf("ratios are of pairs: %s", got)
	}
	if got := spread([]float64{123.4, 12.34, 1.234}); got != "1.23 / 12.3 / 123" {
		t.Errorf("spread: %s", got)
	}
	if got := len(payloadOf(256)); got != 256 {
		t.Errorf("the payload has %d bytes", got)
	}
}

func TestMarkers(t *testing.T) {
	text := "# A\n" + beginMark + "\nold\n" + endMark + "\nrest\n"
	got, err := between(text, "new\n")
	if want := "# A\n" + beginMark + "\nnew\n" + endMark + "\nrest\n"; err != nil || got != want {
		t.Errorf("%v: %q", err, got)
	}
	if _, err := between("no markers", "x"); err == nil {
		t.Error("a file without markers was written over")
	}
}

func TestReport(t *testing.T) {
	r := &report{Systems: []string{"Quorate", "Other <&>"}, Rows: []result{
		{Name: "a < b", Unit: "x/s", Values: map[string][]float64{"Quorate": {4, 6}, "Other <&>": {2, 3}}, Errors: map[string]int64{"Other <&>": 2}},
		{Name: "only one", Unit: "s", LowerBetter: true, Values: map[string][]float64{"Quorate": {0}}},
	}}
	if got := tables(r); !strings.Contains(got, "| a < b | x/s | 4.00 / 5.00 / 6.00 | 2.00 / 2.50 / 3.00<br>×2.00 / ×2.00 / ×2.00<br>**2 errors** |") {
		t.Errorf("the table is\n%s", got)
	}
	dir := t.TempDir()
	if err := draw(dir, r); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "benchmarks.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(strings.NewReader(string(raw))); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
}
