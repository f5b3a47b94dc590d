package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/quorate/quorate/api"
	"github.com/quorate/quorate/internal/testcluster"
)

// TestDocker builds the image and runs the compose file: three containers form a cluster, one is killed, and the others go on.
func TestDocker(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		t.Skipf("NOT RUN: there is no Docker engine here: %v %s", err, out)
	}
	compose := []string{"docker", "compose"}
	if exec.Command("docker", "compose", "version").Run() != nil {
		if exec.Command("docker-compose", "version").Run() != nil {
			t.Skip("NOT RUN: there is neither docker compose nor docker-compose")
		}
		compose = []string{"docker-compose"}
	}
	project := fmt.Sprintf("quoratetest%d", os.Getpid())
	image := project + ":test"
	var env []string
	run := func(limit time.Duration, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(3*time.Minute, args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	must("docker/build.sh", image)
	t.Cleanup(func() { run(time.Minute, "docker", "rmi", "-f", image) })
	if user := strings.TrimSpace(must("docker", "inspect", "--format", "{{.Config.User}}", image)); user == "" || strings.HasPrefix(user, "0") || user == "root" {
		t.Errorf("the image runs as %q", user)
	}
	ports := testcluster.FreePorts(t, 3)
	env = []string{"QUORATE_IMAGE=" + image}
	for i, p := range ports {
		env = append(env, fmt.Sprintf("QUORATE_PORT_%d=%d", i+1, p))
	}
	up := append(compose, "-p", project, "-f", "docker/compose.yaml")
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := run(time.Minute, append(up, "logs", "--tail", "40")...)
			t.Log(logs)
		}
		run(2*time.Minute, append(up, "down", "-v", "-t", "1")...)
	})
	if out, err := run(3*time.Minute, append(up, "up", "-d")...); err != nil {
		t.Fatalf("compose up: %v\n%s", err, out)
	}
	containers := strings.Fields(must(append(up, "ps", "-q")...))
	if len(containers) != 3 {
		t.Fatalf("%d containers", len(containers))
	}
	for _, id := range containers {
		testcluster.Eventually(t, "the container's health check says healthy", func() error {
			if state := strings.TrimSpace(must("docker", "inspect", "--format", "{{.State.Health.Status}}", id)); state != "healthy" {
				return fmt.Errorf("it says %s", state)
			}
			return nil
		})
	}
	var urls []string
	for _, p := range ports {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", p))
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.IgnoreDiscoveredServers())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	put, failed := request[api.ConfigPutResponse](t, nc, "es.config.write.put.orders", "")
	if failed != nil {
		t.Fatal(failed)
	}
	if _, failed := request[api.AppendResponse](t, nc, "es.orders.write.append.s", `{"events":[{"id":"e1","type":"A"}]}`); failed != nil {
		t.Fatal(failed)
	}
	must(append(up, "kill", "-s", "SIGKILL", put.Leader)...)
	testcluster.Eventually(t, "another container leads", func() error {
		m, err := nc.Request("es.orders.write.append.s", []byte(`{"events":[{"id":"e2","type":"B"}]}`), 3*time.Second)
		if err != nil {
			return err
		}
		if code := m.Header.Get(api.HeaderErrorCode); code != "" {
			return fmt.Errorf("%s", m.Data)
		}
		return nil
	})
	read, failed := request[api.ReadResponse](t, nc, "es.orders.read.stream.s", "")
	if failed != nil || len(read.Events) != 2 {
		t.Errorf("read: %v %+v", failed, read)
	}
}
