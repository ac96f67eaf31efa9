package kubectlgitlab

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

const canName = "can"

// Verbs and resources that completion offers; any other is asked about all the same.
var (
	verbs     = []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
	resources = []string{
		"configmaps", "cronjobs.batch", "daemonsets.apps", "deployments.apps", "events", "ingresses.networking.k8s.io", "jobs.batch",
		"persistentvolumeclaims", "pods", "replicasets.apps", "rolebindings.rbac.authorization.k8s.io", "secrets", "serviceaccounts",
		"services", "statefulsets.apps",
	}
)

func canCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   canName + " VERB RESOURCE[/NAME] [-n NAMESPACE]",
		Short: "Whether you may do something, and why: exit status 0 yes, 1 no, 2 unknown",
		Long: "Says whether you may do something, by what role, and if not who can give it to you. The cluster decides; the reason is the integrator's.\n" +
			"Exit status: 0 yes, 1 no, 2 unknown (nobody could be asked, or the command line is wrong).",
		Example: "  kubectl gitlab can create deployments -n haw-world\n  kubectl gitlab can get pods --subresource=log",
		Args:    cobra.ExactArgs(2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return verbs, cobra.ShellCompDirectiveNoFileComp
			case 1:
				return resources, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	namespace := cmd.Flags().StringP("namespace", "n", "", "namespace, instead of the context's")
	subresource := cmd.Flags().String("subresource", "", "part of the resource, as in log, exec or scale")
	quiet := cmd.Flags().BoolP("quiet", "q", false, "say nothing: the exit status is the answer")
	o.completeNamespaceFlag(cmd)
	noFiles(cmd, "subresource")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := o.open(*namespace)
		if err != nil {
			return err
		}
		what := questionOf(cmd.Context(), s, args[0], args[1], *subresource)
		verdict, err := s.access(cmd.Context(), what)
		if err != nil {
			return err
		}
		if !*quiet {
			printVerdict(cmd.Context(), s, o.process.Out, what, verdict)
		}
		if !verdict.Allowed {
			return status(exitNo)
		}
		return nil
	}
	return cmd
}

// questionOf makes the question of what somebody typed. What the cluster does not know is asked as it is.
func questionOf(ctx context.Context, s *session, verb, resource, subresource string) attributes {
	resource, name, _ := strings.Cut(resource, "/")
	out := attributes{Namespace: s.namespace, Verb: strings.ToLower(verb), Resource: strings.ToLower(resource), Subresource: subresource, Name: name}
	if resource == "*" {
		return out
	}
	known, err := s.kinds(ctx)
	if err != nil {
		s.o.note("note: %v: %q is asked about as it is", err, resource)
		return out
	}
	k, ok := known.find(resource)
	if !ok {
		s.o.note("note: the cluster has no resource %q", resource)
		return out
	}
	out.Group, out.Resource = k.group, k.plural
	if !k.namespaced {
		out.Namespace = ""
	}
	if k.plural == "namespaces" && name != "" {
		out.Namespace = name // kube-apiserver judges a request for one namespace as one in it
	}
	if subresource == "" && slices.Contains(k.subresources, name) {
		s.o.note("note: %q is taken for a name; for the part of that name write %s --subresource=%s", name, k.plural, name)
	}
	return out
}

// printVerdict says the cluster's word, its reason, and what our server adds.
func printVerdict(ctx context.Context, s *session, w io.Writer, what attributes, v access) {
	word := "no"
	if v.Allowed {
		word = "yes"
	}
	fmt.Fprintf(w, "%s: %s\n", word, what)
	say := func(text string) {
		if text != "" {
			fmt.Fprintln(w, "  "+text)
		}
	}
	say(v.Reason)
	if v.Fault != "" {
		say("(" + v.Fault + ")")
	}
	query := url.Values{}
	for name, value := range map[string]string{
		"verb": what.Verb, "resource": what.Resource, "group": what.Group, "subresource": what.Subresource, "name": what.Name, "namespace": what.Namespace,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	var known webapi.Can
	if !s.askServer(ctx, webapi.PathCan, query, &known) {
		return
	}
	if !strings.Contains(v.Reason, known.Reason) { // kube-apiserver puts the name of the webhook before its words
		say(known.Reason)
	}
	for _, line := range known.Trail {
		say(line)
	}
	if len(known.Ask) > 0 {
		say("ask " + strings.Join(known.Ask, ", "))
	}
	if known.Allowed != word && known.Allowed != "unknown" && known.Allowed != "" {
		say(fmt.Sprintf("The integrator says %s, the cluster %s: the cluster decides. Try again in a minute, then ask the cluster's administrators.", known.Allowed, word))
	}
}
