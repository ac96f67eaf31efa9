package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/app"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
)

func explainCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain USER -n NAMESPACE [VERB RESOURCE[/SUBRESOURCE] [NAME]] --config FILE [-o json]",
		Short: "Say what a person may do in a namespace, and why: from GitLab to the RoleBinding, beside kube-apiserver's own verdict",
		Long: `Say what a person may do in a namespace, and why.

USER is a user name in GitLab, an id, or gitlab:ID. Without VERB and RESOURCE the
question is whether they have any right there. RESOURCE is written as for kubectl:
pods, deploy, deployments.apps/scale.

The answer goes from the membership in GitLab (direct, inherited, invited; until when)
over the level and the ClusterRole to the RoleBinding as it is in the cluster. It names
what would have given more and why it does not, what helps and who can do it, and
kube-apiserver's own verdict. Where that differs, it says why.

It reads what the running integrator has stored, and the cluster; GitLab is not asked.
It needs the rights of an administrator: with fewer it says what it could not see.`,
		Example: `  gl-k8s-integrator explain bob -n haw-world --config config.yaml
  gl-k8s-integrator explain bob -n haw-world delete pods --config config.yaml
  gl-k8s-integrator explain gitlab:42 -n haw-world get deployments.apps/scale web --config config.yaml -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return errors.New("name a person: user name, id or gitlab:ID")
			case 2:
				return fmt.Errorf("name the resource after the verb %q", args[1])
			case 1, 3, 4:
				return nil
			}
			return fmt.Errorf("want USER, VERB, RESOURCE and NAME at most, not %d arguments", len(args))
		},
	}
	path := configFlag(cmd)
	ns, output := aboutNamespace(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := textOrJSON(*output); err != nil {
			return err
		}
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		args = append(args, "", "", "")
		return app.Explain(cmd.Context(), cfg, s.err, s.out, app.Asking{User: args[0], Verb: args[1], Resource: args[2], Name: args[3], Namespace: *ns, Output: *output})
	}
	return cmd
}

func whoCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "who -n NAMESPACE --config FILE [--at TIME] [-o json]",
		Short:   "List who has, or by GitLab should have, a right in a namespace, and how they came to it",
		Example: "  gl-k8s-integrator who -n haw-world --config config.yaml\n  gl-k8s-integrator who -n haw-world --at 2026-11-24 --config config.yaml",
		Args:    cobra.NoArgs,
	}
	path := configFlag(cmd)
	ns, output := aboutNamespace(cmd)
	at := cmd.Flags().String("at", "", "who had one then, by the history, as `history --at` shows it: 2026-11-24T15:04:05Z, 2026-11-24, 36h or 7d ago")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := textOrJSON(*output); err != nil {
			return err
		}
		cfg, err := config.Load(*path)
		if err != nil {
			return err
		}
		if *at != "" {
			return app.History(cmd.Context(), cfg, app.HistoryView{Namespace: *ns, At: *at, Output: *output}, s.out)
		}
		return app.Who(cmd.Context(), cfg, s.out, app.Asking{Namespace: *ns, Output: *output})
	}
	return cmd
}

// aboutNamespace adds -n, which is demanded, and -o.
func aboutNamespace(cmd *cobra.Command) (ns, output *string) {
	ns = cmd.Flags().StringP("namespace", "n", "", "the namespace (required)")
	output = cmd.Flags().StringP("output", "o", "text", "text or json")
	if err := cmd.MarkFlagRequired("namespace"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return ns, output
}

func textOrJSON(output string) error {
	if output != "text" && output != "json" {
		return fmt.Errorf("-o: want text or json, not %q", output)
	}
	return nil
}
