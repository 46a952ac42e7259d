// A client of bench/client_settings.py: waits for a query that takes long, or asks every 100 ms.
// java -cp postgresql.jar:. JdbcClient URL QUERY
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.Statement;

class JdbcClient {
    public static void main(String[] arguments) throws Exception {
        try (Connection connection = DriverManager.getConnection(arguments[0]);
                Statement statement = connection.createStatement()) {
            while (true) {
                statement.execute(arguments[1]);
                Thread.sleep(100);
            }
        }
    }
}
