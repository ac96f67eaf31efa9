package kubectlgitlab

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func useCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "use NAMESPACE",
		Short: "Make kubectl work in a namespace of yours from now on",
		Long: "Switches to the context of the namespace, for the cluster and user of the current one. If there is none, one is made whose name\n" +
			"differs in the namespace alone; a context whose name does not end with its namespace gets the other namespace itself.",
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return o.completeNamespaces()
		},
	}
	force := cmd.Flags().Bool("force", false, "do not ask the cluster whether you may do anything there")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := o.open("")
		if err != nil {
			return err
		}
		if !*force {
			if err := mayEnter(cmd.Context(), s, args[0]); err != nil {
				return err
			}
		}
		var now string
		err = o.change(cmd.Context(), func(have files) (changed []string, err error) {
			changed, now, err = enter(have, s.name, args[0])
			return changed, err
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(o.process.Out, "context %s, namespace %s\n", now, args[0])
		return nil
	}
	return cmd
}

// mayEnter refuses a namespace in which the person may not even list pods: a mistyped one is found before it is written.
func mayEnter(ctx context.Context, s *session, namespace string) error {
	v, err := s.access(ctx, attributes{Namespace: namespace, Verb: "list", Resource: "pods"})
	if err != nil {
		return fmt.Errorf("%w. With --force it is not asked", err)
	}
	if v.Allowed {
		return nil
	}
	reason := v.Reason
	if reason == "" {
		reason = "no role of yours allows it"
	}
	return fmt.Errorf("you may not list pods in %s: %s. For your namespaces: kubectl gitlab namespaces. With --force it is not asked", namespace, strings.TrimSuffix(reason, "."))
}

// enter makes the named context, or one beside it, the current one with that namespace. It changes the files in memory, and
// returns the paths of those and the name of the context that is now current.
func enter(have files, name, namespace string) (changed []string, now string, err error) {
	home, ok := have.with(func(c *clientcmdapi.Config) bool { return c.Contexts[name] != nil })
	if !ok {
		return nil, "", fmt.Errorf("there is no context %q any more", name)
	}
	current := home.config.Contexts[name]
	now = name
	if current.Namespace != namespace {
		now = have.contextOf(current, namespace)
	}
	if now == "" {
		changed = append(changed, home.path)
		prefix, named := strings.CutSuffix(name, cmp.Or(current.Namespace, "default"))
		if named && prefix != "" {
			now = prefix + namespace
			if _, taken := have.with(func(c *clientcmdapi.Config) bool { return c.Contexts[now] != nil }); taken {
				return nil, "", fmt.Errorf("context %q is there already, for another cluster or user: choose it with kubectl config use-context, or rename it", now)
			}
			made := current.DeepCopy()
			made.Namespace = namespace
			home.config.Contexts[now] = made
		} else {
			now = name
			current.Namespace = namespace
		}
	}
	first, ok := have.with(func(c *clientcmdapi.Config) bool { return c.CurrentContext != "" })
	if !ok {
		first = have[0]
	}
	if first.config.CurrentContext != now {
		first.config.CurrentContext = now
		changed = append(changed, first.path)
	}
	return changed, now, nil
}

// contextOf returns the first by name of the contexts with that namespace that lead where another one leads; "" if there is
// none.
func (f files) contextOf(like *clientcmdapi.Context, namespace string) string {
	all := map[string]*clientcmdapi.Context{}
	for _, one := range slices.Backward(f) { // the first file counts
		maps.Copy(all, one.config.Contexts)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if c := all[name]; c.Cluster == like.Cluster && c.AuthInfo == like.AuthInfo && c.Namespace == namespace {
			return name
		}
	}
	return ""
}
