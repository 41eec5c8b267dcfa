package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"kemi"
	"kemi/collectors/backfill"
	"kemi/sauron/client"
)

func putCommand() *cobra.Command {
	var c connection
	var file, format string
	o := backfill.Options{}
	var quiet bool
	cmd := &cobra.Command{
		Use:   "put [metric value tag=value …]",
		Short: "Write samples: one from the arguments, or many from a file or standard input",
		Long: `Write samples, and return when they are durable. With arguments it is one sample of now.

Without, a file or standard input is read, of any size and also packed (.gz, .zst): OpenMetrics or Prometheus' text, as promtool writes and
reads them, or OpenTSDB's lines: put <metric> <time> <value> <tag>=<value> … (the word put may be left out). A terminal shows how far it
is. Lines that are wrong are told with their number, and the others are written.

To send a file again changes nothing. What broke off says how far it was; with --offset it goes on from there.`,
		Example: `  kemi put shop.orders 3 host=web-1 service=pay
  promtool tsdb dump-openmetrics data/ | kemi put
  kemi put --file dump.om.gz`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.open()
			if err != nil {
				return err
			}
			if len(args) > 0 {
				if file != "" || cmd.Flags().Changed("offset") {
					return kemi.Errorf(kemi.ErrInvalid, "put: either a sample in the arguments or a file")
				}
				return putOne(cmd.Context(), cl, args)
			}
			if o.Format, err = backfill.ParseFormat(format); err != nil {
				return err
			}
			if o.Offset < 0 || o.Senders < 1 || o.Senders > 64 {
				return kemi.Errorf(kemi.ErrInvalid, "put: --offset must not be negative, and --senders between 1 and 64")
			}
			in, size, read, err := openInput(cmd.InOrStdin(), file)
			if err != nil {
				return err
			}
			defer in.Close()
			if o.Format == backfill.Auto && file != "" {
				o.Format = backfill.FormatOf(file)
			}
			cl.HTTP = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: o.Senders, DisableCompression: true}, Timeout: 5 * time.Minute}
			o.Send = cl.RemoteWrite
			return putAll(cmd.Context(), in, o, newBar(os.Stderr, size, read, o.Offset, quiet))
		},
	}
	c.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "file to read; without it standard input")
	f.StringVar(&format, "format", "auto", "of the file: auto, openmetrics (times in seconds), prometheus (in milliseconds) or opentsdb")
	f.Int64Var(&o.Offset, "offset", 0, "byte of the unpacked file to begin at")
	f.IntVar(&o.Senders, "senders", 4, "how many requests are under way at a time")
	f.DurationVar(&o.RetryFor, "retry-for", 5*time.Minute, "how long a server that has no time is asked again")
	f.BoolVarP(&quiet, "quiet", "q", false, "do not show how far it is")
	return cmd
}

func putOne(ctx context.Context, cl *client.Client, args []string) error {
	if len(args) < 2 {
		return kemi.Errorf(kemi.ErrInvalid, "put: a metric and a value are needed")
	}
	p, err := point(append([]string{args[0], strconv.FormatInt(time.Now().UnixMilli(), 10)}, args[1:]...))
	if err != nil {
		return err
	}
	return cl.Put(ctx, []client.DataPoint{p})
}

func putAll(ctx context.Context, in io.Reader, o backfill.Options, b *bar) error {
	var p backfill.Progress
	stop := b.show(&p)
	err := backfill.Run(ctx, in, o, &p)
	stop()
	if err != nil && (!errors.Is(err, kemi.ErrInvalid) || ctx.Err() != nil) {
		fmt.Fprintf(os.Stderr, "kemi: broke off; all up to byte %d is stored: go on with --offset %d\n", p.Durable.Load(), p.Durable.Load())
	}
	return err
}

// openInput opens the file, or standard input, and unpacks it. size is its size as it lies there, 0 if that is not known, and read counts how
// much of that was read.
func openInput(stdin io.Reader, file string) (in io.ReadCloser, size int64, read *atomic.Int64, err error) {
	read = new(atomic.Int64)
	if file == "" || file == "-" {
		return io.NopCloser(stdin), 0, nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, nil, kemi.Errorf(kemi.ErrInvalid, "put: %w", err)
	}
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
		size = st.Size()
	}
	counted := &countedFile{f, read}
	var out io.Reader
	switch {
	case strings.HasSuffix(file, ".gz"):
		out, err = gzip.NewReader(counted)
	case strings.HasSuffix(file, ".zst"):
		out, err = zstd.NewReader(counted)
	default:
		return f, size, nil, nil
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, nil, kemi.Errorf(kemi.ErrInvalid, "put: %s: %w", file, err)
	}
	return &unpacked{out, f}, size, read, nil
}

type countedFile struct {
	*os.File
	n *atomic.Int64
}

func (c *countedFile) Read(b []byte) (int, error) {
	n, err := c.File.Read(b)
	c.n.Add(int64(n))
	return n, err
}

type unpacked struct {
	io.Reader
	f *os.File
}

func (u *unpacked) Close() error { return u.f.Close() }

// bar shows a person how far it is. On anything but a terminal it is silent.
type bar struct {
	w      io.Writer
	size   int64
	read   *atomic.Int64 // of a packed file: bytes of it
	offset int64
	on     bool
}

func newBar(f *os.File, size int64, read *atomic.Int64, offset int64, quiet bool) *bar {
	return &bar{w: f, size: size, read: read, offset: offset, on: !quiet && term.IsTerminal(int(f.Fd()))}
}

// show draws until stop is called.
func (b *bar) show(p *backfill.Progress) (stop func()) {
	if !b.on {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	began := time.Now()
	go func() {
		defer close(ended)
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				fmt.Fprintf(b.w, "\r%s\x1b[K", b.line(p, time.Since(began)))
			case <-done:
				fmt.Fprintf(b.w, "\r%s\x1b[K\n", b.line(p, time.Since(began)))
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// line is what it shows: share, bytes, lines, samples, samples a second, and how long it will take.
func (b *bar) line(p *backfill.Progress, took time.Duration) string {
	read, samples := p.Read.Load(), p.Samples.Load()
	at := read
	if b.read != nil {
		at = b.read.Load()
	}
	rate := float64(samples) / max(took.Seconds(), 0.001)
	s := fmt.Sprintf("%s lines  %s samples stored  %s/s", count(float64(p.Lines.Load())), count(float64(samples)), count(rate))
	if n := p.Refused.Load(); n > 0 {
		s += fmt.Sprintf("  %d refused", n)
	}
	if n := p.Retries.Load(); n > 0 {
		s += fmt.Sprintf("  %d retries", n)
	}
	if b.size <= 0 {
		return fmt.Sprintf("%sB  %s", count(float64(read)), s)
	}
	share := min(1, float64(at)/float64(b.size))
	const width = 20
	full := int(share * width)
	eta := ""
	if done := at - b.offset; b.read == nil && done > 0 || b.read != nil && at > 0 {
		if b.read != nil {
			done = at
		}
		left := time.Duration(float64(took) * float64(b.size-at) / float64(done))
		eta = "  ETA " + left.Round(time.Second).String()
	}
	return fmt.Sprintf("%3.0f%% [%s%s] %sB of %sB  %s%s", 100*share, strings.Repeat("#", full), strings.Repeat(".", width-full), count(float64(at)), count(float64(b.size)), s, eta)
}

// count writes a large number short.
func count(v float64) string {
	for _, unit := range []string{"", "k", "M", "G", "T"} {
		if v < 999.5 {
			if unit == "" {
				return strconv.FormatFloat(v, 'f', 0, 64)
			}
			return strconv.FormatFloat(v, 'f', 1, 64) + unit
		}
		v /= 1000
	}
	return strconv.FormatFloat(v, 'f', 0, 64) + "P"
}
