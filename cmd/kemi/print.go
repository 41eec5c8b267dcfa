package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"kemi"
	"kemi/sauron/client"
)

// printer writes log records: in colour on a terminal, as JSON lines if asked.
type printer struct {
	w      io.Writer
	json   bool
	colour bool
}

func newPrinter(w io.Writer, asJSON bool) *printer {
	p := &printer{w: w, json: asJSON}
	if f, ok := w.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		i, err := f.Stat()
		p.colour = err == nil && i.Mode()&os.ModeCharDevice != 0
	}
	return p
}

var levelColours = map[string]string{"fatal": "1;31", "error": "31", "warn": "33", "info": "32", "debug": "36", "trace": "90"}

func (p *printer) paint(colour, s string) string {
	if !p.colour || colour == "" || s == "" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (p *printer) print(r *client.Record) error {
	if p.json {
		_, err := fmt.Fprintf(p.w, "%s\n", r.Raw)
		return err
	}
	source := r.Stream["host"]
	for _, name := range []string{"service", "app"} {
		if v := r.Stream[name]; v != "" {
			source = strings.TrimPrefix(source+"/"+v, "/")
			break
		}
	}
	var b strings.Builder
	b.WriteString(p.paint("90", r.Time.Local().Format("2006-01-02 15:04:05.000")))
	fmt.Fprintf(&b, " %s", p.paint(levelColours[r.Level], fmt.Sprintf("%-5s", r.Level)))
	if source != "" {
		b.WriteString(" " + p.paint("34", source))
	}
	b.WriteString(" " + p.clean(r.Text()))
	for _, k := range slices.Sorted(keys(r.Attrs)) {
		b.WriteString(" " + p.paint("90", k+"=") + p.clean(strconv.Quote(r.Attrs[k])))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(p.w, b.String())
	return err
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// clean keeps what a log line says from steering the terminal: control characters are shown, not sent.
func (p *printer) clean(s string) string {
	if !p.colour {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '·'
		}
		return r
	}, s)
}

// printPromQL shows an answer of /api/v1/query or query_range: a line a series, or a block a series with a line a value.
func printPromQL(w io.Writer, b []byte, asJSON bool) error {
	if asJSON {
		_, err := fmt.Fprintf(w, "%s\n", strings.TrimSpace(string(b)))
		return err
	}
	var a struct {
		Data struct {
			ResultType string          `json:"resultType"`
			Result     json.RawMessage `json:"result"`
		} `json:"data"`
		Warnings []string `json:"warnings"`
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "the server's answer: %w", err)
	}
	for _, x := range a.Warnings {
		fmt.Fprintln(os.Stderr, "kemi: warning:", x)
	}
	if a.Data.ResultType == "scalar" || a.Data.ResultType == "string" {
		var v [2]any
		if err := json.Unmarshal(a.Data.Result, &v); err != nil {
			return kemi.Errorf(kemi.ErrUnavailable, "the server's answer: %w", err)
		}
		_, err := fmt.Fprintln(w, v[1])
		return err
	}
	var series []struct {
		Metric map[string]string `json:"metric"`
		Value  *[2]any           `json:"value"`
		Values [][2]any          `json:"values"`
	}
	if err := json.Unmarshal(a.Data.Result, &series); err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "the server's answer: %w", err)
	}
	for _, s := range series {
		if s.Value != nil {
			fmt.Fprintf(w, "%s  %v\n", nameOf(s.Metric), s.Value[1])
			continue
		}
		fmt.Fprintln(w, nameOf(s.Metric))
		for _, v := range s.Values {
			t, _ := v[0].(float64)
			fmt.Fprintf(w, "  %s  %v\n", time.UnixMilli(int64(t*1000)).Format("2006-01-02 15:04:05"), v[1])
		}
	}
	return nil
}

// nameOf is a series as PromQL writes it.
func nameOf(metric map[string]string) string {
	ls := kemi.LabelsFromMap(metric)
	name := ls.Get(kemi.MetricName)
	rest := ls.With(kemi.MetricName, "")
	if name == "" || len(rest) > 0 {
		return name + rest.String()
	}
	return name
}

// printSauron shows an answer of /api/v2/query.
func printSauron(w io.Writer, b []byte, asJSON bool) error {
	if asJSON {
		_, err := fmt.Fprintf(w, "%s\n", strings.TrimSpace(string(b)))
		return err
	}
	var series []struct {
		Metric string                     `json:"metric"`
		Tags   map[string]string          `json:"tags"`
		Dps    map[string]json.RawMessage `json:"dps"`
	}
	if err := json.Unmarshal(b, &series); err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "the server's answer: %w; with arrays use -o json", err)
	}
	for _, s := range series {
		fmt.Fprintln(w, s.Metric+kemi.LabelsFromMap(s.Tags).String())
		times := make([]int64, 0, len(s.Dps))
		for t := range s.Dps {
			n, err := strconv.ParseInt(t, 10, 64)
			if err != nil {
				return kemi.Errorf(kemi.ErrUnavailable, "the server's answer: time %q", t)
			}
			times = append(times, n)
		}
		sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
		for _, n := range times {
			at := time.Unix(n, 0)
			if n > 1e11 {
				at = time.UnixMilli(n)
			}
			fmt.Fprintf(w, "  %s  %s\n", at.Format("2006-01-02 15:04:05"), s.Dps[strconv.FormatInt(n, 10)])
		}
	}
	return nil
}
