package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// version is set by the linker.
var version string

// programVersion returns the tag or commit that the program was made from: what make gave to the linker, else what the go
// command found out, else "dev".
func programVersion() string {
	var found string
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "(devel)" {
		found = info.Main.Version
	}
	return cmp.Or(version, found, "dev")
}

func versionCommand(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, and the formats that it reads and writes",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(s.out, "gl-k8s-integrator %s (%s, %s/%s)\nconfiguration: %s\nmarks: %d\n",
				programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH, config.APIVersion, kubename.MarkFormat)
			for _, f := range store.Formats() {
				if err == nil {
					_, err = fmt.Fprintf(s.out, "%s %s: %d\n", f.Kind, f.Name, f.Version)
				}
			}
			return err
		},
	}
}
