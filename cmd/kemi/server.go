package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"kemi/app"
)

func serverCommand() *cobra.Command {
	var file, listen, data, role, memory string
	var dev bool
	c := &cobra.Command{
		Use:   "server",
		Short: "Run the server: everything embedded, data in one folder, one port",
		Long: `Run the server. Without a configuration everything is embedded and lives below the data folder.
The first start makes an admin token, prints it once and writes it to <data>/admin.token (mode 0600).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := app.LoadConfig(file)
			if err != nil {
				return err
			}
			f := cmd.Flags()
			set(f.Changed("listen"), &conf.Listen, listen)
			set(f.Changed("data"), &conf.Data, data)
			set(f.Changed("dev"), &conf.Dev, dev)
			set(f.Changed("role"), &conf.Role, role)
			set(f.Changed("memory"), &conf.Memory, memory)
			return app.Run(cmd.Context(), conf, os.Stdout, os.Stderr)
		},
	}
	d := app.DefaultConfig()
	c.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
	c.Flags().StringVar(&listen, "listen", d.Listen, "address to listen on")
	c.Flags().StringVar(&data, "data", d.Data, "folder that holds everything")
	c.Flags().StringVar(&role, "role", d.Role, "which part of the server to run")
	c.Flags().StringVar(&memory, "memory", d.Memory, "soft limit of memory: a size such as 4GiB, or a share of the machine's or cgroup's")
	c.Flags().BoolVar(&dev, "dev", false, "let requests from this machine in as admin, without a token (loopback only)")
	return c
}

func set[T any](given bool, dst *T, v T) {
	if given {
		*dst = v
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "kemi", app.Version) },
	}
}
