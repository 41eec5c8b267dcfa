package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kemi"
	"kemi/app"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check or print a server's configuration"}
	var file string
	check := &cobra.Command{
		Use:   "check",
		Short: "Say what is wrong with a configuration file",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := app.LoadConfig(file)
			if err == nil {
				err = conf.Validate()
			}
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "the configuration is right")
			}
			return err
		},
	}
	print := &cobra.Command{
		Use:   "print",
		Short: "Print the effective configuration: the file over the defaults, secrets hidden",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := app.LoadConfig(file)
			if err != nil {
				return err
			}
			return conf.Print(cmd.OutOrStdout())
		},
	}
	for _, sub := range []*cobra.Command{check, print} {
		sub.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
		c.AddCommand(sub)
	}
	c.AddCommand(tryCommand())
	return c
}

func tryCommand() *cobra.Command {
	var file, output string
	var labels []string
	c := &cobra.Command{
		Use:   "try --pipeline FILE",
		Short: "Show what pipelines make of log lines: each line of standard input before and after",
		Long: `Show what pipelines make of log lines, without a server: each line of standard input is the body of a record with the labels that are given, and is shown
before and after. The file has the pipelines under the key pipelines, as ingest of a server's configuration has them.`,
		Example: "  kemi config try --pipeline pipelines.yaml --label app=pay < sample.log",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return kemi.Errorf(kemi.ErrInvalid, "--output %q: must be text or json", output)
			}
			if file == "" {
				return kemi.Errorf(kemi.ErrInvalid, "--pipeline: name the file with the pipelines")
			}
			stream := map[string]string{}
			for _, l := range labels {
				name, value, ok := strings.Cut(l, "=")
				if !ok || name == "" {
					return kemi.Errorf(kemi.ErrInvalid, "--label %q: must be name=value", l)
				}
				stream[name] = value
			}
			p := newPrinter(cmd.OutOrStdout(), output == "json")
			return app.TryPipelines(file, kemi.LabelsFromMap(stream), cmd.InOrStdin(), p.tried)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "pipeline", "", "file with the pipelines (YAML)")
	f.StringArrayVar(&labels, "label", nil, "label of the lines' stream, as name=value; can be given several times")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// tried shows a line before and after.
func (p *printer) tried(l app.TriedLine) error {
	if p.json {
		return json.NewEncoder(p.w).Encode(l)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", p.paint("31", "-"), p.clean(l.Before))
	for _, s := range l.Steps {
		if s.Problem != "" {
			fmt.Fprintf(&b, "%s %s: %s: %s\n", p.paint("33", "!"), s.Pipeline, s.Step, p.clean(s.Problem))
		}
	}
	if a := l.After; a == nil {
		fmt.Fprintf(&b, "%s %s\n", p.paint("90", "x"), p.paint("90", "dropped: "+l.Dropped()))
	} else {
		fmt.Fprintf(&b, "%s %s", p.paint("32", "+"), p.paint("90", a.Time.Format("2006-01-02T15:04:05.000Z07:00")))
		if a.Level != "" {
			b.WriteString(" " + p.paint(levelColours[a.Level], a.Level))
		}
		if a.Project != "" {
			b.WriteString(" " + p.paint("35", "project="+a.Project))
		}
		if len(a.Stream) > 0 {
			b.WriteString(" " + p.paint("34", p.clean(a.Stream.String())))
		}
		b.WriteString(" " + p.clean(a.Body))
		for _, l := range a.Attributes {
			b.WriteString(" " + p.paint("90", p.clean(l.Name)+"=") + p.clean(strconv.Quote(l.Value)))
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(p.w, b.String())
	return err
}
