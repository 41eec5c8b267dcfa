package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"kemi"
	"kemi/app"
	"kemi/collectors/agent"
)

// agentMemory is the soft limit of the memory of an agent that does not scrape; its heap is collected twice as often as usual, which costs it next to nothing.
const (
	agentMemory    = 40 << 20
	agentGCPercent = 50
)

func agentCommand() *cobra.Command {
	var file, server, tokenFile, project, hostname, service, owner, zone, spool, level string
	var logs []string
	var interval time.Duration
	c := &cobra.Command{
		Use:   "agent",
		Short: "Collect this host's metrics, log files and journal, and send them to a server",
		Long: `Collect this host's metrics, log files and journal, scrape the targets that the configuration names, and send all of it to a server.
What cannot be sent waits on disk and is sent later, in order.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := app.LoadHostAgentConfig(file)
			if err != nil {
				return err
			}
			f := cmd.Flags()
			set(f.Changed("server"), &conf.Server, server)
			set(f.Changed("token-file"), &conf.TokenFile, tokenFile)
			set(f.Changed("project"), &conf.Project, project)
			set(f.Changed("hostname"), &conf.Hostname, hostname)
			set(f.Changed("service"), &conf.Service, service)
			set(f.Changed("owner"), &conf.Owner, owner)
			set(f.Changed("zone"), &conf.Zone, zone)
			set(f.Changed("spool"), &conf.Spool.Dir, spool)
			set(f.Changed("interval"), &conf.Interval, interval)
			conf.Follow(logs...)
			if err := conf.Validate(); err != nil {
				return err
			}
			log, err := app.NewLogger(app.LogConfig{Level: level, Format: "text"}, os.Stderr)
			if err != nil {
				return err
			}
			return runAgent(cmd.Context(), conf, log)
		},
	}
	d := agent.DefaultConfig()
	f := c.Flags()
	f.StringVar(&file, "config", "", "configuration file (YAML)")
	f.StringVar(&server, "server", d.Server, "address of the server")
	f.StringVar(&tokenFile, "token-file", "", "file that holds the token")
	f.StringVar(&project, "project", "", "project that everything belongs to (default the token's)")
	f.StringVar(&hostname, "hostname", "", "label host of everything (default this machine's name)")
	f.StringVar(&service, "service", "", "service that this host is of")
	f.StringVar(&owner, "owner", "", "who owns this host")
	f.StringVar(&zone, "zone", "", "zone that this host is in")
	f.StringVar(&spool, "spool", d.Spool.Dir, "folder for what waits to be sent")
	f.StringArrayVar(&logs, "logs", nil, "pattern of log files to follow; can be given several times")
	f.DurationVar(&interval, "interval", d.Interval, "time between two measurements")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}

func runAgent(ctx context.Context, conf app.HostAgentConfig, log *slog.Logger) error {
	if !conf.Scrapes() { // what is known of targets takes what it takes
		debug.SetMemoryLimit(agentMemory)
	}
	debug.SetGCPercent(agentGCPercent)
	a, err := app.NewHostAgent(conf, log)
	if err != nil {
		return err
	}
	defer a.Close()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP) // a lost terminal ends it in order, too
	defer stop()
	log.Info("collecting", "server", conf.Server, "interval", conf.Interval, "logs", len(conf.Logs))
	if err := a.Run(ctx); err != nil && ctx.Err() == nil {
		return kemi.Errorf(kemi.ErrUnavailable, "agent: %w", err)
	}
	return nil
}
