package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// ReportDrift makes a Kubernetes Event for each object that was put back, in its namespace, so that whoever changed it
// learns why it did not last. An Event that can't be written is not worth a failed round.
func ReportDrift(ctx context.Context, client kubernetes.Interface, log *slog.Logger, now time.Time, done []rbacsync.Change) {
	for i, c := range done {
		if i == 50 {
			log.InfoContext(ctx, "more changes were put back than Events are made for", "total", len(done))
			return
		}
		what, why := "changed by somebody else and is put back", "rights here come from GitLab"
		switch c.Action {
		case rbacsync.Create:
			what = "deleted by somebody else and is put back"
		case rbacsync.Delete:
			what = "made by somebody else with our mark and is deleted"
		case rbacsync.Update, rbacsync.Replace:
		}
		if c.Key.Kind == rbacsync.KindTemplate {
			why = "every namespace has it from a template of the cluster's administrators"
		}
		note := fmt.Sprintf("%s was %s: %s", c.Key, what, why)
		if d := c.Details(5); len(d) > 0 {
			note += " (" + strings.Join(d, ", ") + ")"
		}
		if len(note) > 1000 { // the API server's limit is 1024 bytes
			note = strings.ToValidUTF8(note[:1000], "")
		}
		ReportEvent(ctx, client, log, now, c.Reference(), note)
	}
}

// ReportEvent makes one Event about an object. One that can't be written is logged, and nothing else.
func ReportEvent(ctx context.Context, client kubernetes.Interface, log *slog.Logger, now time.Time, ref corev1.ObjectReference, note string) {
	at := metav1.NewTime(now)
	_, err := client.CoreV1().Events(ref.Namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "gl-k8s-integrator-", Namespace: ref.Namespace},
		InvolvedObject: ref, Reason: "DriftRestored", Message: note, Type: corev1.EventTypeWarning,
		Source: corev1.EventSource{Component: "gl-k8s-integrator"}, FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}, metav1.CreateOptions{})
	if err != nil {
		log.DebugContext(ctx, "no Event about drift", "namespace", ref.Namespace, "error", err)
	}
}
