package kubectlgitlab

import (
	"slices"

	"github.com/spf13/cobra"
)

// Completions come from the kubeconfig alone: a question to the cluster could open a browser to log in, in the middle of a
// line.

func (o *options) completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	raw, err := o.rules().Load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return contextNames(raw), cobra.ShellCompDirectiveNoFileComp
}

// completeNamespaces offers the namespaces of all contexts that lead to the cluster of the current one.
func (o *options) completeNamespaces() ([]string, cobra.ShellCompDirective) {
	raw, err := o.rules().Load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	name := o.context
	if name == "" {
		name = raw.CurrentContext
	}
	current := raw.Contexts[name]
	if current == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, c := range raw.Contexts {
		if c.Cluster == current.Cluster && c.Namespace != "" {
			out = append(out, c.Namespace)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), cobra.ShellCompDirectiveNoFileComp
}

func (o *options) completeNamespaceFlag(cmd *cobra.Command) {
	err := cmd.RegisterFlagCompletionFunc("namespace", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return o.completeNamespaces()
	})
	if err != nil {
		panic(err) // only for a flag that does not exist
	}
}

// noFiles keeps files from being offered for flags that name something else.
func noFiles(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions); err != nil {
			panic(err) // only for a flag that does not exist
		}
	}
}
