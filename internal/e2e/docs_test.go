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

// natsCLI returns the nats CLI that the Makefile built, or one on the PATH.
func natsCLI(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("NATS_CLI"); path != "" {
		return path
	}
	path, err := exec.LookPath("nats")
	if err != nil {
		t.Skip("NOT RUN: there is no nats CLI; make e2e builds one and sets NATS_CLI")
	}
	return path
}

// TestDocuments runs every example that is marked as such, as pasted, with the stock nats CLI, and wants no error but those the text is about.
func TestDocuments(t *testing.T) {
	nats := natsCLI(t)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for name, target := range map[string]string{"nats": nats, "quorate": testcluster.Binary(t)} {
		if err := os.Symlink(target, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	example := regexp.MustCompile("(?s)<!-- e2e -->\n```sh\n(.*?)```")
	for _, document := range []string{"README.md", "subjects.md"} {
		t.Run(document, func(t *testing.T) {
			c := testcluster.Start(t, 3)
			text, err := os.ReadFile(filepath.Join(root, document))
			if err != nil {
				t.Fatal(err)
			}
			blocks := example.FindAllStringSubmatch(string(text), -1)
			if len(blocks) < 2 {
				t.Fatalf("%d examples found", len(blocks))
			}
			for _, block := range blocks {
				for line := range strings.Lines(block[1]) {
					ctx, cancel := context.WithTimeout(context.Background(), testcluster.Patience)
					cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", line)
					cmd.Dir = root
					cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "NATS_URL="+c.Nodes[0].URL(), "HOME="+t.TempDir())
					out, err := cmd.CombinedOutput()
					cancel()
					if err != nil || strings.Contains(string(out), `"error":`) || strings.Contains(string(out), "Nats-Service-Error") || strings.Contains(string(out), "No responders") {
						t.Errorf("%s%v\n%s", line, err, out)
					}
					if len(out) == 0 {
						t.Errorf("%sprints nothing", line)
					}
				}
			}
		})
	}
}
