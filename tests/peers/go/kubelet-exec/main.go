// What a kubelet does for `kubectl exec`: by the kubelet's own streaming code, a command is run in a container that somebody else runs as
// processes. FOLDER/NAMESPACE/POD/CONTAINER is the executable that enters it. It prints the port that it listens at, and ends with its stdin.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	common "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/client-go/tools/remotecommand"
	streaming "k8s.io/kubelet/pkg/cri/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const limit = time.Minute

type node struct{ folder string }

func (n node) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	if len(parts) != 4 || parts[0] != "exec" {
		http.NotFound(w, request)
		return
	}
	options, err := streaming.NewOptions(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pod := filepath.Join(parts[1], parts[2])
	streaming.ServeExec(w, request, n, pod, "", parts[3], request.URL.Query()["command"], options, limit, limit, common.SupportedStreamingProtocols)
}

func (n node) ExecInContainer(ctx context.Context, pod string, _ types.UID, container string, command []string, in io.Reader,
	out, err io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	child := exec.CommandContext(ctx, filepath.Join(n.folder, pod, container), command...)
	child.Stdin, child.Stdout, child.Stderr = in, out, err
	failure := child.Run()
	if ended, ok := failure.(*exec.ExitError); ok {
		return utilexec.CodeExitError{Err: failure, Code: ended.ExitCode()}
	}
	return failure
}

func main() {
	server := httptest.NewUnstartedServer(node{os.Args[1]})
	// the streams are those of HTTP/1.1
	server.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	server.StartTLS()
	fmt.Println(server.URL[strings.LastIndex(server.URL, ":")+1:])
	io.Copy(io.Discard, os.Stdin)
}
