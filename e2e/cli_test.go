//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kemi runs a command of the binary against the server.
func (s *server) kemi(stdin string, args ...string) (int, string) {
	s.t.Helper()
	c := exec.Command(binary(s.t), args...)
	c.Env = append(os.Environ(), "KEMI_SERVER="+s.url, "KEMI_TOKEN="+s.token)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	if c.ProcessState == nil {
		s.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(out)
}

// TestTryPipelines shows what a pipeline makes of lines, without a server.
func TestTryPipelines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yaml")
	write(t, file, "pipelines:\n  - name: pay\n    match: {app: pay}\n    steps:\n      - {drop: {reason: health}, when: {body: /health/}}\n      - redact: {detectors: [card]}\n")
	s := &server{t: t}
	const lines = "GET /health\npaid with 4111 1111 1111 1111\n"
	code, out := s.kemi(lines, "config", "try", "--pipeline", file, "--label", "app=pay")
	if code != 0 || !strings.Contains(out, "- GET /health\nx dropped: health\n- paid with 4111 1111 1111 1111\n+ ") || !strings.Contains(out, "paid with **** **** **** ****") || strings.Contains(out, "\x1b") {
		t.Errorf("exit %d, %q", code, out)
	}
	code, out = s.kemi(lines, "config", "try", "--pipeline", file, "-o", "json")
	if code != 0 || strings.Count(out, "\n") != 2 || !strings.Contains(out, `"body":"paid with 4111 1111 1111 1111"`) {
		t.Errorf("without the label: exit %d, %q", code, out)
	}
	if code, out = s.kemi(lines, "config", "try"); code != 2 || !strings.Contains(out, "--pipeline: name the file") {
		t.Errorf("exit %d, %q", code, out)
	}
}

func TestCommandLine(t *testing.T) {
	s := startServer(t, filepath.Join(t.TempDir(), "data"), "agent: {enabled: false}\n")
	do := func(code int, says, stdin string, args ...string) {
		t.Helper()
		eventually(t, 5*time.Second, strings.Join(args, " "), func() error {
			got, out := s.kemi(stdin, args...)
			if got != code || !strings.Contains(out, says) {
				return fmt.Errorf("exit %d, %q; want exit %d with %q", got, out, code, says)
			}
			return nil
		})
	}
	do(0, "", "", "put", "shop.orders", "3", "host=web-1")
	do(0, "", fmt.Sprintf("put a.b %d 5 x=y\n\na.b %d 6 x=z\n", time.Now().Unix(), time.Now().UnixMilli()), "put")
	do(2, "line 1", "a.b 1 z\n", "put")
	do(0, `shop.orders{host="web-1"}  3`, "", "query", `{"shop.orders"}`)
	do(0, `11`, "", "query", `sum({"a.b"})`)
	do(0, `"resultType":"vector"`, "", "query", `{"shop.orders"}`, "-o", "json")
	do(0, `  3`, "", "query", `{"start":"1h-ago","queries":[{"metric":"shop.orders","aggregator":"sum"}]}`)
	do(2, "parse error", "", "query", "sum(")
	do(2, "neither text nor json", "", "logs", "x", "-o", "xml")
	do(3, "", "", "logs", "x", "--token-file", os.DevNull, "--server", s.url)
	do(5, "", "", "logs", "x", "--server", "http://127.0.0.1:1")

	// Live tail: what is acknowledged is printed within a second.
	p := spawn(t, []string{"KEMI_SERVER=" + s.url, "KEMI_TOKEN=" + s.token}, binary(t), "tail", `service:pay level:>=warn`)
	n := 0
	eventually(t, 10*time.Second, "the tail is connected", func() error {
		n++
		s.must("POST", "/api/v2/logs", map[string]string{"service": "pay", "level": "warn", "_msg": fmt.Sprintf("hello %d", n)}, "Content-Type", "application/json")
		if !strings.Contains(p.out.String(), "hello") {
			return fmt.Errorf("nothing printed")
		}
		return nil
	})
	s.must("POST", "/api/v2/logs", map[string]string{"service": "pay", "level": "info", "_msg": "quiet"}, "Content-Type", "application/json")
	s.must("POST", "/api/v2/logs", map[string]string{"service": "pay", "level": "error", "_msg": "주문 실패 at once"}, "Content-Type", "application/json")
	eventually(t, time.Second, "a line is printed within a second of its acknowledgement", func() error {
		if !strings.Contains(p.out.String(), "주문 실패 at once") {
			return fmt.Errorf("%s", p.out.String())
		}
		return nil
	})
	if strings.Contains(p.out.String(), "quiet") {
		t.Errorf("the tail shows what does not match: %s", p.out.String())
	}
	// However often it is told, it ends in order: timeout(1) tells it twice.
	for ended := false; !ended; {
		p.signal(syscall.SIGTERM)
		select {
		case <-p.done:
			ended = true
		default:
		}
	}
	if p.err != nil {
		t.Errorf("the tail was stopped and ended with %v", p.err)
	}
	do(0, "주문 실패 at once", "", "logs", `service:pay 실패`)
	do(0, `"level":"error"`, "", "logs", `service:pay 실패`, "-o", "json")
}

// TestReadme runs the shell commands of the README that ask and tell, one after another, against a server.
func TestReadme(t *testing.T) {
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, filepath.Join(t.TempDir(), "data"), "agent: {enabled: false}\n")
	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(s.data) // holds data/, as the README has it
	if err := os.Symlink(filepath.Join(repo, "bin"), filepath.Join(dir, "bin")); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for i, block := range strings.Split("\n"+string(b), "\n```") { // every second one is code, its first line says of which kind
		kind, code, _ := strings.Cut(block, "\n")
		if i%2 == 1 && kind == "" && strings.Contains(code, "curl") {
			all.WriteString(code + "\n")
		}
	}
	ran := strings.Count(all.String(), "curl ")
	script := all.String()
	// Those that run until they are stopped are given some seconds.
	script = regexp.MustCompile(`(?m)^bin/kemi (agent|tail)`).ReplaceAllString(script, "timeout --preserve-status -s TERM 3 bin/kemi $1")
	script = strings.ReplaceAll(script, "127.0.0.1:7070", s.addr)
	script = strings.ReplaceAll(script, "curl -", "curl -fsS -")
	script = strings.ReplaceAll(script, "--server http://", "--spool "+filepath.Join(dir, "spool")+" --server http://")
	c := exec.Command("bash", "-euxo", "pipefail", "-c", script)
	c.Dir = dir
	c.Env = append(os.Environ(), "KEMI_SERVER="+s.url)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if ran < 6 {
		t.Fatalf("only %d commands were found", ran)
	}
	if !strings.Contains(string(out), "connection reset by peer") {
		t.Errorf("the search did not find the line: %s", out)
	}
}
