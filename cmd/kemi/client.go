package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kemi"
	"kemi/sauron/client"
)

// connection is the flags that say which server is asked, and as whom.
type connection struct{ server, tokenFile, project string }

func (c *connection) flags(cmd *cobra.Command) {
	server := os.Getenv("KEMI_SERVER")
	if server == "" {
		server = "http://127.0.0.1:7070"
	}
	f := cmd.Flags()
	f.StringVar(&c.server, "server", server, "address of the server (KEMI_SERVER)")
	f.StringVar(&c.tokenFile, "token-file", "", "file that holds the token (default the variable KEMI_TOKEN, then data/admin.token here)")
	f.StringVar(&c.project, "project", os.Getenv("KEMI_PROJECT"), "project to act in (KEMI_PROJECT; default the token's)")
}

func (c *connection) open() (*client.Client, error) {
	token := os.Getenv("KEMI_TOKEN")
	file := c.tokenFile
	if file == "" && token == "" {
		file = "data/admin.token"
	}
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil && c.tokenFile != "" {
			return nil, kemi.Errorf(kemi.ErrInvalid, "token file: %w", err)
		}
		if err == nil {
			token = strings.TrimSpace(string(b))
		}
	}
	return &client.Client{URL: c.server, Token: token, Project: c.project}, nil
}

// output is the flag -o.
type output string

func (o *output) flag(cmd *cobra.Command) {
	cmd.Flags().StringVarP((*string)(o), "output", "o", "text", "text or json")
}

func (o output) json() (bool, error) {
	switch o {
	case "json":
		return true, nil
	case "text":
		return false, nil
	}
	return false, kemi.Errorf(kemi.ErrInvalid, "--output: %q is neither text nor json", string(o))
}

func tailCommand() *cobra.Command {
	var c connection
	var o output
	cmd := &cobra.Command{
		Use:   "tail [query]",
		Short: "Follow logs live",
		Long: `Follow logs live: what matches appears as soon as it is acknowledged. The query is as in kemi logs; without one everything is shown.
Ends with Ctrl-C. A connection that is lost is made again; what came meanwhile is not shown, and that is said.`,
		Example: `  kemi tail 'service:pay level:>=warn'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := o.json()
			if err != nil {
				return err
			}
			cl, err := c.open()
			if err != nil {
				return err
			}
			p := newPrinter(cmd.OutOrStdout(), asJSON)
			for e, err := range cl.Tail(cmd.Context(), queryOf(args)) {
				switch {
				case err != nil:
					return err
				case e.Lost != nil:
					fmt.Fprintln(os.Stderr, "kemi: connection lost, trying again:", e.Lost)
				case e.Dropped > 0:
					fmt.Fprintf(os.Stderr, "kemi: %d records dropped: this reader is too slow\n", e.Dropped)
				default:
					if err := p.print(&e.Record); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	c.flags(cmd)
	o.flag(cmd)
	return cmd
}

func queryOf(args []string) string {
	if len(args) == 0 {
		return "*"
	}
	return strings.Join(args, " ")
}

func logsCommand() *cobra.Command {
	var c connection
	var o output
	var since, until string
	var limit int
	cmd := &cobra.Command{
		Use:     "logs [query]",
		Short:   "Search logs",
		Long:    `Search logs, newest last. Words must all be there; "phrases", field:value, field:>=5, prefix*, /regex/, AND OR NOT - ( ) as in Lucene.`,
		Example: `  kemi logs 'service:pay level:error "connection reset" -path:/health' --since 1h`,
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := o.json()
			if err != nil {
				return err
			}
			cl, err := c.open()
			if err != nil {
				return err
			}
			p := newPrinter(cmd.OutOrStdout(), asJSON)
			var found []client.Record
			for r, err := range cl.Logs(cmd.Context(), client.LogQuery{Query: queryOf(args), Start: ago(since), End: ago(until), Limit: limit}) {
				if err != nil {
					return err
				}
				found = append(found, r)
			}
			for _, r := range slices.Backward(found) {
				if err := p.print(&r); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.flags(cmd)
	o.flag(cmd)
	cmd.Flags().StringVar(&since, "since", "15m", "how far back: a duration such as 2h, or a time")
	cmd.Flags().StringVar(&until, "until", "now", "up to when: a duration ago, or a time")
	cmd.Flags().IntVarP(&limit, "limit", "n", 100, "at most so many records, the newest")
	return cmd
}

// ago makes 2h what the server calls it, 2h-ago; other times stay as they are.
func ago(s string) string {
	if s == "" || s == "now" || strings.HasSuffix(s, "-ago") {
		return s
	}
	if last := s[len(s)-1]; last >= 'a' && last <= 'z' && s[0] >= '0' && s[0] <= '9' {
		return s + "-ago"
	}
	return s
}

func queryCommand() *cobra.Command {
	var c connection
	var o output
	var since string
	var step time.Duration
	cmd := &cobra.Command{
		Use:   "query <expression>",
		Short: "Ask for metrics: PromQL, or an OpenTSDB query in JSON",
		Example: `  kemi query 'avg by (host) ({"data.load.avg_5m"})'
  kemi query 'rate(shop_orders_total[5m])' --since 1h --step 1m
  kemi query '{"start":"1h-ago","queries":[{"metric":"data.load.avg_5m","aggregator":"max","downsample":"15m-max"}]}' -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := o.json()
			if err != nil {
				return err
			}
			cl, err := c.open()
			if err != nil {
				return err
			}
			var sauron struct {
				Queries json.RawMessage `json:"queries"`
			}
			if json.Unmarshal([]byte(args[0]), &sauron) == nil && sauron.Queries != nil {
				b, err := cl.Query(cmd.Context(), []byte(args[0]))
				if err != nil {
					return err
				}
				return printSauron(cmd.OutOrStdout(), b, asJSON)
			}
			var start, end time.Time
			if cmd.Flags().Changed("since") || step > 0 {
				d, err := time.ParseDuration(since)
				if err != nil || d <= 0 {
					return kemi.Errorf(kemi.ErrInvalid, "--since: %q is not a duration such as 1h", since)
				}
				if step <= 0 {
					step = max(time.Second, (d / 60).Round(time.Second))
				}
				end = time.Now()
				start = end.Add(-d)
			}
			b, err := cl.PromQL(cmd.Context(), args[0], start, end, step)
			if err != nil {
				return err
			}
			return printPromQL(cmd.OutOrStdout(), b, asJSON)
		},
	}
	c.flags(cmd)
	o.flag(cmd)
	cmd.Flags().StringVar(&since, "since", "1h", "values over this time until now; without it, and without --step, the value now")
	cmd.Flags().DurationVar(&step, "step", 0, "time between two values")
	return cmd
}

// point reads metric, time, value, tags.
func point(w []string) (client.DataPoint, error) {
	if len(w) < 3 {
		return client.DataPoint{}, kemi.Errorf(kemi.ErrInvalid, "%q: expected <metric> <time> <value> <tag>=<value> …", strings.Join(w, " "))
	}
	at, err := strconv.ParseInt(w[1], 10, 64)
	if err != nil {
		return client.DataPoint{}, kemi.Errorf(kemi.ErrInvalid, "time %q: must be seconds or milliseconds since 1970", w[1])
	}
	if _, err := strconv.ParseFloat(w[2], 64); err != nil {
		return client.DataPoint{}, kemi.Errorf(kemi.ErrInvalid, "value %q: must be a number", w[2])
	}
	p := client.DataPoint{Metric: w[0], Timestamp: at, Value: json.Number(w[2]), Tags: map[string]string{}}
	for _, t := range w[3:] {
		k, v, ok := strings.Cut(t, "=")
		if !ok || k == "" || v == "" {
			return client.DataPoint{}, kemi.Errorf(kemi.ErrInvalid, "tag %q: must be name=value", t)
		}
		p.Tags[k] = v
	}
	return p, nil
}
