// Command bench measures the built binary as a whole process: it starts a server on an empty folder, sends it metrics and
// logs over loopback, and reads from the process table what that cost. The figures go to standard output and into a Markdown file.
//
//	go run ./e2e/bench -bin bin/kemi -out docs/benchmarks.md
//
// CPU-seconds of the server process are the figures to compare: they hardly move with what else the machine does.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

func main() {
	o := options{}
	flag.StringVar(&o.bin, "bin", "bin/kemi", "the binary to measure")
	flag.StringVar(&o.out, "out", "", "Markdown file to write; its part between the marks is replaced")
	flag.IntVar(&o.series, "series", 100_000, "active series")
	flag.IntVar(&o.rounds, "rounds", 60, "samples of each series")
	flag.IntVar(&o.logMB, "log-mb", 60, "megabytes of log text")
	flag.IntVar(&o.connections, "connections", 4, "senders side by side")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	bin, out                           string
	series, rounds, logMB, connections int
}

func run(ctx context.Context, o options) error {
	report := &strings.Builder{}
	fmt.Fprintf(report, "Command: `make bench` (series %d, rounds %d, %d MB of logs, %d connections)  \n", o.series, o.rounds, o.logMB, o.connections)
	fmt.Fprintf(report, "Machine: %s  \nDate: %s\n\n", machine(), time.Now().UTC().Format("2006-01-02"))
	fmt.Fprintf(report, "| what | figure |\n|---|---|\n")
	row := func(what, format string, args ...any) {
		fmt.Fprintf(report, "| %s | %s |\n", what, fmt.Sprintf(format, args...))
		fmt.Printf("%-60s %s\n", what, fmt.Sprintf(format, args...))
	}
	if err := benchMetrics(ctx, o, row); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if err := benchLogs(ctx, o, row); err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	if o.out == "" {
		return nil
	}
	return writeReport(o.out, report.String())
}

const (
	beginMark = "<!-- begin: make bench -->"
	endMark   = "<!-- end: make bench -->"
)

// writeReport replaces what stands between the marks, and keeps the rest of the page.
func writeReport(name, report string) error {
	b, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	page := string(b)
	head, rest, ok := strings.Cut(page, beginMark)
	if !ok {
		head, rest = strings.TrimRight(page, "\n")+"\n\n", endMark+"\n"
	}
	_, tail, _ := strings.Cut(rest, endMark)
	return os.WriteFile(name, []byte(head+beginMark+"\n\n"+report+"\n"+endMark+tail), 0o644)
}

func machine() string {
	cpu := ""
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for l := range strings.SplitSeq(string(b), "\n") {
			if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
				cpu = strings.TrimSpace(v)
				break
			}
		}
	}
	kernel, _ := exec.Command("uname", "-r").Output()
	return fmt.Sprintf("%d cores, %s, Linux %s, %s", runtime.NumCPU(), cpu, strings.TrimSpace(string(kernel)), runtime.Version())
}
