// Command ferretdb is a FerretDB with its SQLite backend, which stands in for MongoDB in the tests of that sink.
// FerretDB's own command needs a file that its module lacks. Built by tests/run, started by tests/src/ferretdb.rs.
package main

import (
	"context"
	"flag"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	config := ferretdb.Config{
		Handler: "sqlite",
		Logger:  slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	flag.StringVar(&config.Listener.TCP, "listen", "", "address without TLS")
	flag.StringVar(&config.Listener.TLS, "listen-tls", "", "address with TLS")
	flag.StringVar(&config.Listener.TLSCertFile, "cert", "", "certificate, PEM")
	flag.StringVar(&config.Listener.TLSKeyFile, "key", "", "its key, PEM")
	flag.StringVar(&config.SQLiteURL, "sqlite-url", "", "directory of the databases, as file:DIRECTORY/")
	flag.Parse()
	server, err := ferretdb.New(&config)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := server.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
