package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/quorate/quorate/internal/testcluster"
)

// TestExamples runs the programs of examples/ as their comments say, against three nodes.
func TestExamples(t *testing.T) {
	c := testcluster.Start(t, 3)
	bin := t.TempDir()
	out, err := exec.Command("go", "build", "-o", bin+"/", "github.com/quorate/quorate/examples/...").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := func(t *testing.T, env []string, name string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(append(os.Environ(), "NATS_URL="+c.Nodes[1].URL()), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %v: %v\n%s", filepath.Base(name), args, err, out)
		}
		return string(out)
	}
	t.Run("courses", func(t *testing.T) {
		out := run(t, nil, bin+"/courses")
		if got, full := strings.Count(out, "has a seat"), strings.Count(out, "the course is full"); got != 3 || full != 7 {
			t.Errorf("%d have a seat, %d have not:\n%s", got, full, out)
		}
		again := run(t, nil, bin+"/courses")
		if got, twice := strings.Count(again, "has a seat"), strings.Count(again, "in this course already"); got != 0 || twice != 3 {
			t.Errorf("the second time: %d have a seat, %d have had one:\n%s", got, twice, again)
		}
	})
	t.Run("usernames", func(t *testing.T) {
		for _, step := range []struct {
			args []string
			want string
		}{
			{[]string{"ada"}, "ada is registered\n"}, {[]string{"ada"}, "ada is claimed already\n"}, {[]string{"-close", "ada"}, "ada is free again\n"},
			{[]string{"-close", "ada"}, "nobody is called ada\n"}, {[]string{"ada"}, "ada is registered\n"},
		} {
			if got := run(t, nil, bin+"/usernames", step.args...); got != step.want {
				t.Errorf("%v: got %q, want %q", step.args, got, step.want)
			}
		}
	})
	t.Run("invoices", func(t *testing.T) {
		numbers := map[string]bool{}
		for range 2 {
			for _, m := range regexp.MustCompile(`(?m)^invoice (\d+) for customer-\d$`).FindAllStringSubmatch(run(t, nil, bin+"/invoices"), -1) {
				numbers[m[1]] = true
			}
		}
		if len(numbers) != 20 || !numbers["1"] || !numbers["20"] {
			t.Errorf("got %v, want 1 to 20", numbers)
		}
	})
	t.Run("python", func(t *testing.T) {
		python, err := exec.LookPath("python3")
		if err != nil {
			t.Skip("NOT RUN: there is no python3")
		}
		script, err := filepath.Abs("../../examples/python/example.py")
		if err != nil {
			t.Fatal(err)
		}
		run(t, nil, python, "-c", "import ast, sys; ast.parse(open(sys.argv[1]).read())", script)
		if err := exec.Command(python, "-c", "import nats; nats.connect").Run(); err != nil {
			t.Skip("NOT RUN, only parsed: python3 has no nats-py; pip install nats-py")
		}
		want := regexp.MustCompile(`^version 0
duplicate True
refused wrong_expected_version actual version 0
events \['OrderPlaced', 'OrderPaid'\]
live OrderPlaced 0 {"total":12}
followed 0 OrderPlaced {'total': 12}
followed 1 OrderPaid {'method': 'card'}
acknowledged 1
$`)
		if got := run(t, []string{"PYTHONDONTWRITEBYTECODE=1"}, python, script); !want.MatchString(got) {
			t.Errorf("got\n%s", got)
		}
	})
}
