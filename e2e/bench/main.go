// Command bench measures the built binary as a whole process: it starts a server on an empty folder, sends it metrics and
// logs over loopback, asks it, and reads from the process table what that cost. Where the binary of a peer is named (VictoriaMetrics,
// Prometheus), it does the same to that in the same run and prints the ratio. The figures go to standard output and into a Markdown file.
//
//	go run ./e2e/bench -bin bin/kemi -out docs/benchmarks.md
//	go run ./e2e/bench -bin bin/kemi -only query -victoriametrics /usr/local/bin/victoria-metrics
//
// CPU-seconds of the server process are the figures to compare: they hardly move with what else the machine does.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

type options struct {
	out, only, sizes    string
	hosts, hours        int
	stepSeconds         int
	logMB, connections  int
	phase, ask, settled time.Duration
	targets             []target
}

// parts are what can be measured, in their order.
var parts = []string{"ingest", "lines", "query", "restart", "disk", "logs"}

func main() {
	o := options{}
	var bin, vm, prom string
	flag.StringVar(&bin, "bin", "bin/kemi", "the binary to measure")
	flag.StringVar(&vm, "victoriametrics", os.Getenv("KEMI_BENCH_VICTORIAMETRICS"), "victoria-metrics binary to run beside it (KEMI_BENCH_VICTORIAMETRICS)")
	flag.StringVar(&prom, "prometheus", os.Getenv("KEMI_BENCH_PROMETHEUS"), "prometheus binary to run beside it (KEMI_BENCH_PROMETHEUS)")
	flag.StringVar(&o.out, "out", "", "Markdown file to write; its part between the marks is replaced")
	flag.StringVar(&o.only, "only", strings.Join(parts, ","), "parts to run")
	flag.StringVar(&o.sizes, "sizes", "10000,100000,1000000", "ingest: active series")
	flag.DurationVar(&o.phase, "phase", 20*time.Second, "ingest, lines: the longest that each phase may send")
	flag.IntVar(&o.hosts, "hosts", 1000, "query: hosts with ten metrics each, and 90 more that have few samples")
	flag.IntVar(&o.hours, "hours", 12, "query: of data")
	flag.IntVar(&o.stepSeconds, "step", 60, "query: seconds between samples")
	flag.DurationVar(&o.ask, "ask", 1500*time.Millisecond, "query: time for each question")
	flag.DurationVar(&o.settled, "settle", 0, "disk: time for all servers to merge and settle what they have before their disk is measured")
	flag.IntVar(&o.logMB, "log-mb", 60, "logs: megabytes of text")
	flag.IntVar(&o.connections, "connections", 4, "senders side by side")
	flag.Parse()
	o.targets = []target{kemiTarget(bin)}
	if vm != "" {
		o.targets = append(o.targets, victoriaTarget(vm))
	}
	if prom != "" {
		o.targets = append(o.targets, prometheusTarget(prom))
	}
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (o *options) wants(part string) bool { return slices.Contains(strings.Split(o.only, ","), part) }

func (o *options) check() error {
	for p := range strings.SplitSeq(o.only, ",") {
		if !slices.Contains(parts, p) {
			return fmt.Errorf("-only: %q: must be some of %s", p, strings.Join(parts, ","))
		}
	}
	if o.hosts < 1 || o.hours < 1 || o.stepSeconds < 1 || o.connections < 1 {
		return fmt.Errorf("-hosts %d, -hours %d, -step %d, -connections %d: must be at least 1", o.hosts, o.hours, o.stepSeconds, o.connections)
	}
	return nil
}

func run(ctx context.Context, o options) error {
	if err := o.check(); err != nil {
		return err
	}
	began := time.Now()
	r := newReport(o.targets)
	if o.wants("ingest") {
		for s := range strings.SplitSeq(o.sizes, ",") {
			n, err := strconv.Atoi(s)
			if err != nil || n < perRequest {
				return fmt.Errorf("-sizes: %q: must be numbers of at least %d", s, perRequest)
			}
			for i := range o.targets {
				if err := benchIngest(ctx, o, i, n, r); err != nil {
					return fmt.Errorf("ingest of %d series by %s: %w", n, o.targets[i].name, err)
				}
			}
		}
	}
	if o.wants("lines") {
		for _, graphite := range []bool{false, true} {
			for i, t := range o.targets {
				if t.graphiteTaken == "" {
					continue
				}
				if err := benchLines(ctx, o, i, graphite, r); err != nil {
					return fmt.Errorf("lines by %s (Graphite %v): %w", t.name, graphite, err)
				}
			}
		}
	}
	if o.wants("query") || o.wants("restart") || o.wants("disk") {
		for i := range o.targets {
			if err := benchQueries(ctx, o, i, r); err != nil {
				return fmt.Errorf("queries of %s: %w", o.targets[i].name, err)
			}
		}
	}
	if o.wants("logs") {
		if err := benchLogs(ctx, o, func(what, format string, args ...any) { r.set(0, what, fmt.Sprintf(format, args...), 0, false) }); err != nil {
			return fmt.Errorf("logs: %w", err)
		}
	}
	if o.out == "" {
		return nil
	}
	text := fmt.Sprintf("Command: `make bench` (%s; %d hosts × %d h at %d s, %d connections), %s  \nMachine: %s  \nDate: %s\n\n%s",
		o.only, o.hosts, o.hours, o.stepSeconds, o.connections, time.Since(began).Round(time.Second), machine(), time.Now().UTC().Format("2006-01-02"), r.markdown())
	return writeReport(o.out, text)
}

// report is a table: a row for what was measured, a column for each target.
type report struct {
	targets  []target
	rows     []*row
	answered map[string]int // series in the answer to a question, of the first target
}

type row struct {
	what   string
	text   []string
	value  []float64 // for ratios; 0 = none
	larger bool      // is better
}

func newReport(targets []target) *report {
	return &report{targets: targets, answered: map[string]int{}}
}

// set fills in a cell. What is printed to standard output is the same.
func (r *report) set(target int, what, text string, value float64, larger bool) {
	i := slices.IndexFunc(r.rows, func(x *row) bool { return x.what == what })
	if i < 0 {
		i = len(r.rows)
		r.rows = append(r.rows, &row{what: what, text: make([]string, len(r.targets)), value: make([]float64, len(r.targets)), larger: larger})
	}
	x := r.rows[i]
	x.text[target], x.value[target] = text, value
	fmt.Printf("%-16s %-60s %s%s\n", r.targets[target].name, what, text, x.ratio(target))
}

// ratio is how many times better the first target is than this one.
func (x *row) ratio(target int) string {
	a, b := x.value[0], x.value[target]
	if target == 0 || a <= 0 || b <= 0 {
		return ""
	}
	if x.larger {
		a, b = b, a
	}
	return fmt.Sprintf(" (%.1f ×)", b/a)
}

func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("| what |")
	for _, t := range r.targets {
		fmt.Fprintf(&b, " %s |", t.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(r.targets)) + "\n")
	for _, x := range r.rows {
		fmt.Fprintf(&b, "| %s |", x.what)
		for i, text := range x.text {
			fmt.Fprintf(&b, " %s%s |", cmp.Or(text, "–"), x.ratio(i))
		}
		b.WriteByte('\n')
	}
	if len(r.targets) > 1 {
		b.WriteString("\nIn brackets: how many times better KEMI is (for times and bytes: less, for rates: more).\n")
	}
	return b.String()
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
